"""`tlm release stage`: every repository of a release file as a folder `OUTPUT/owner/name`, all of them or none.

Branches are `owner/name@branch`; evaluations stay in `.measured/`, so what is staged again is equal to the last byte.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from huggingface_hub import RepoCard
from tqdm.auto import tqdm

from .. import models, runtime
from ..cards import CardFacts, card_template, is_uncased, package_data, render_card
from ..errors import UserError, refusing
from ..evaluation.classifier_facts import measure_classifier
from ..export import RUNTIME_FILES, write_runtime
from ..loading import weights_hash
from ..models.modeling_tlm import TLMForMaskedLM
from ..recipes import HEAD_SIZE, find_size
from ..runs.atomic_files import Json, read_json, whole_folder, write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import portable_path
from ..training.finetune import NEW
from . import manifest
from .demo_data import DEMO_FILE, known_texts
from .release_file import KINDS, Entry, Release, read_release
from .safety import check_folder
from .verify import VERIFIED_FILE

MEASURED = ".measured"
ADAPTER_CONFIG, PLOT = "adapter_config.json", "reliability.png"
SPACE, DEMO = "tlm-demo", "demo"
USAGE = "## How to run it"  # heading of the Space's README.md from which on it holds for every demonstration


@dataclass(frozen=True)
class SourceRun:
    """A finished run that becomes a repository, or its branch (None: main), and the SHA-256 of its weights."""

    entry: Entry
    folder: Path
    branch: str | None
    results: Json
    weights: str


def _at(name: str, branch: str | None) -> str:
    return f"{name}@{branch}" if branch else name


def stage(release_file: str, output_dir: str, *, data_root: str | None = None) -> Json:
    """Build every repository of a release, whole or not at all; UserError for what must not or cannot be built."""
    release = read_release(release_file)
    output = Path(output_dir).expanduser().resolve()
    _check_replaceable(output)
    with whole_folder(output) as root:
        stager = _Stager(release, root, output / MEASURED, data_root)
        repositories = [stager.stage(entry) for entry in tqdm(release.entries, desc="Staging", unit="repository")]
        staged = manifest.StagedRelease(output, release.version, release.namespace, repositories)
        record = {key: value for key, value in asdict(staged).items() if key != "output"}
        write_json(root / manifest.RELEASE_FILE, record)
        if (output / MEASURED).is_dir():
            shutil.copytree(output / MEASURED, root / MEASURED)
    lines = [f"{each.kind:<11}{folder}" for each, folder in staged.folders]
    lines.append(f"Staged in {output_dir}; next: tlm release verify.")
    return {**record, "table": "\n".join(lines)}


def _check_replaceable(output: Path) -> None:
    if output.is_file():
        raise UserError(f"The output folder {output} is a file: choose another --output-dir.")
    staged = manifest.read_staged(output) if (output / manifest.RELEASE_FILE).exists() else None
    for folder in manifest.changed_folders(staged) if staged else ():
        if (output / folder).is_dir():
            remedy = "staging again would lose that: choose another --output-dir, or remove the folder"
            raise UserError(f"{folder} was changed after the release was staged; {remedy}.")
    folders = [folder for _, folder in staged.folders] if staged else []
    owners = {Path(folder).parent.as_posix() for folder in folders}
    expected = {manifest.RELEASE_FILE, VERIFIED_FILE, MEASURED, *folders, *owners}
    for path in [*output.glob("*"), *(path for owner in owners for path in (output / owner).glob("*"))]:
        if (name := path.relative_to(output).as_posix()) not in expected:
            raise UserError(f"The output folder {output} holds other files ({name}): choose another --output-dir.")


class _Stager:
    """Stages one entry after the other; all that can be refused is refused when it is made, before any long work."""

    def __init__(self, release: Release, root: Path, measured: Path, data_root: str | None) -> None:
        self.release, self.root, self.measured, self.data_root = release, root, measured, data_root
        self.private = [] if data_root is None else [Path(data_root)]
        self.runs: dict[str, SourceRun] = {}  # by name, and by `name@branch`
        for entry in release.entries:
            self.private += [entry.source, *entry.revisions.values()]
            for branch, folder in [(None, entry.source), *entry.revisions.items()] if entry.kind != "space" else []:
                results = read_json(folder / RESULTS_FILE) if (folder / RESULTS_FILE).is_file() else {}
                kind, needed = results.get("kind", "run that has not finished"), KINDS[entry.kind].run
                if kind != needed:
                    remedy = f"{entry.kind}s come from a finished {needed}: name another"
                    raise UserError(f"{folder} is a {kind}, and {remedy}.")
                if entry.kind == "adapter" and not (folder / "adapter").is_dir():
                    raise UserError(f"The run {folder} has no adapter: fine-tune with --lora-rank.")
                run = SourceRun(entry, folder, branch, results, weights_hash(str(folder)))
                self.runs[_at(entry.name, branch)] = run
        self.inputs = {label: self._inputs(run) for label, run in self.runs.items()}

    def stage(self, entry: Entry) -> manifest.Repository:
        """Build an entry's repository, a folder for each branch."""
        repo_id, kind, tree = self.release.repo_id(entry.name), entry.kind, {}
        for branch in (None, *entry.revisions):
            folder, label = self.root / _at(repo_id, branch), _at(entry.name, branch)
            folder.mkdir(parents=True)
            results, data = Json(), Json()
            if kind == "space":
                smoke = any(is_smoke(self.runs[name].folder) for _, name in entry.links if name in self.runs)
                _stage_space(entry, self.release, folder, smoke=smoke)
            else:
                run, evaluation = self.runs[label], None
                if kind not in ("encoder", "frozen"):
                    cached = self.measured / f"{folder.name}.json"
                    evaluation = measure_classifier(run.folder, run.results, run.weights, cached, self.data_root)
                places = {key: portable_path(run.results[key]) for key in ("corpus", "task") if key in run.results}
                results, settings = run.results | places, run.results["settings"]
                data = {key: settings[key] for key in settings if key.endswith(("sha256", "revision"))} | places
                stage_release_model(replace(run, results=results), self.release, folder, evaluation, self.inputs[label])
            inputs = self.inputs.get(label, {})
            manifest.write_manifest(folder, repo_id, kind, self.release.version, results, inputs, data)
            check_folder(folder, self.private)
            tree[_at(repo_id, branch)] = manifest.tree_hash(folder)
        return manifest.Repository(kind, "space" if kind == "space" else "model", repo_id, tree)

    def _inputs(self, run: SourceRun) -> Json:
        """Which repositories a run read, by their weights' hashes: a name that fits is not enough."""
        entry, read = run.entry, run.results["settings"].get("weights")
        if entry.kind == "encoder":
            return {"base": self._input(None, read)} if read else {}  # of one that was continued
        if entry.kind == "committee":
            for name in entry.members if run.branch is None else []:  # the run of a branch may have other members
                self._check_read(entry, name, run.results["members"], read)
            return {"members": [self._input(None, digest) for digest in read]}
        if entry.base is not None:
            self._check_read(entry, entry.base, [] if read == NEW else [run.results["model"]], [read])
        return {} if read == NEW else {"base": self._input(entry.base, read)}

    def _check_read(self, entry: Entry, name: str, names: list[str], read: list[str]) -> None:
        """Refuse a base or member that a run has not read, by its name elsewhere, by its weights in this release."""
        fitting = [label for label, run in self.runs.items() if run.weights in read]
        if entry.kind == "classifier":  # its base may be a branch
            fitting += [label.partition("@")[0] for label in fitting]
        if name.partition("@")[0] not in names if "/" in name else name not in fitting:
            read_names = (", ".join(names) or "nothing") + (f", which is {fitting[0]}" if fitting else "")
            raise UserError(f"{entry.name} was not made from {name}: its run read {read_names}; correct that file.")

    def _input(self, preferred: str | None, weights: str) -> Json:
        """The repository with these weights, the preferred one of several; it alone may be elsewhere."""
        labels = [label for label, run in self.runs.items() if run.weights == weights]
        if preferred is not None and (preferred in labels or "/" in preferred):
            labels = [preferred]
        return {"repository": self.release.place(labels[0]) if labels else None, "weights": weights}


def _stage_space(entry: Entry, release: Release, folder: Path, *, smoke: bool) -> None:
    """Copy the Space, the runtime of frozen committees and the demonstration, whose models become the release's."""
    ignored = shutil.ignore_patterns("__pycache__", ".gradio", DEMO)
    shutil.copytree(package_data("spaces") / SPACE, folder, ignore=ignored, dirs_exist_ok=True)
    shutil.copyfile(runtime.__file__, folder / "tlm_runtime.py")
    target = folder / DEMO
    target.mkdir()
    damage = OSError, ValueError, KeyError, TypeError
    with refusing(f"{entry.source} is not a whole demonstration", "make it again", *damage):
        demo = read_json(entry.source / DEMO_FILE)
        for name in filter(None, [demo["corpus"] and demo["corpus"]["counts"], demo["study"]]):
            shutil.copyfile(entry.source / Path(name).name, target / Path(name).name)

    def repository(key: str, names: dict[str, str]) -> str:
        if key not in names:
            raise UserError(f"The demonstration {entry.source} shows {key!r}: name its repositories in the release.")
        return release.repo_id(names[key])

    for task in demo["tasks"]:
        task["committee"] = repository(task["name"], entry.committees)
        task["deep"] = task["deep"] and repository(task["name"], entry.deep)
    demo["encoders"] = {name: release.repo_id(model) for name, model in entry.encoders.items()}
    write_json(target / DEMO_FILE, {key: value for key, value in demo.items() if key != "made_by"})
    card = RepoCard.load(folder / "README.md", repo_type="space")
    models = [release.repo_id(name) for name in dict.fromkeys(name for _, name in entry.links)]
    card.data["models"], card.data["license"] = models, release.licence
    shown = {"tasks": demo["tasks"], "corpus": demo["corpus"] and demo["corpus"]["name"], "study": bool(demo["study"])}
    shown |= {"encoders": list(entry.encoders), "models": models, "smoke": smoke, "version": release.version}
    text = card_template("space").render(shown, usage=card.text[card.text.index(USAGE) :].strip())
    (folder / "README.md").write_text(f"---\n{card.data.to_yaml()}\n---\n\n{text.strip()}\n", encoding="utf-8")


def copy_model_files(run: Path, folder: Path, kind: str) -> None:
    """Copy what a model repository holds, with the package's own code; UserError where the run lacks it."""
    sources = [run / "tokenizer.json", run / "tokenizer_config.json"]
    if kind == "adapter":
        sources += [run / "adapter" / name for name in (ADAPTER_CONFIG, "adapter_model.safetensors")]
    elif kind == "encoder" and not any(run.glob("*.py")):  # those that come with the package have no code beside them
        TLMForMaskedLM.from_pretrained(run).save_pretrained(folder)
    else:
        package = Path(models.__path__[0])  # the only code that a model repository may hold
        sources += [run / "config.json", run / "model.safetensors"]
        sources += [package / path.name for path in run.glob("*.py") if path.name not in RUNTIME_FILES]
    if kind == "frozen":
        write_runtime(folder)
    for path in sources:
        if not path.is_file():
            raise UserError(f"The run {run} has no {path.name}, or code that is not of this package: run it again.")
        shutil.copyfile(path, folder / path.name)


def stage_model(run: Path, target: Path, kind: str, results: Json, facts: CardFacts, plot: Path | None = None) -> Path:
    """Build a model folder, which is returned, from a finished run, outside of a release; an older one is replaced."""
    with whole_folder(target) as folder:
        copy_model_files(run, folder, kind)
        plots = {}
        if plot is not None and plot.is_file():  # a plot that failed was warned about already
            plots[plot.name] = "accuracy"
            shutil.copy2(plot, folder / plot.name)
        facts = replace(facts, uncased=is_uncased(folder), plots=plots)
        (folder / "README.md").write_text(render_card(kind, target.name, results, facts), encoding="utf-8")
    return target


def stage_release_model(run: SourceRun, release: Release, folder: Path, evaluation: Json | None, inputs: Json) -> None:
    """Build the model folder of a release: files, results and card; `inputs` as the manifest has them."""
    entry = run.entry
    copy_model_files(run.folder, folder, entry.kind)
    if entry.kind == "adapter":
        base = {"base_model_name_or_path": release.repo_id(entry.base or "")}
        write_json(folder / ADAPTER_CONFIG, read_json(folder / ADAPTER_CONFIG) | base)
    plots = {PLOT: "Reliability before and after the temperature"} if (run.folder / PLOT).is_file() else {}
    if plots:
        shutil.copyfile(run.folder / PLOT, folder / PLOT)
    write_json(folder / RESULTS_FILE, {**run.results, "evaluation": evaluation})
    source = str(run.results.get("corpus" if entry.kind == "encoder" else "task", ""))
    known = known_texts(source)
    # Members outside this release are known by name alone.
    places = [each["repository"] for each in inputs.get("members") or inputs.values()]
    places += [name for name in entry.members if "/" in name]
    facts = CardFacts(
        trained_on=entry.corpus or entry.task or known.get("title", source),
        evaluation=evaluation,
        base_models=list(dict.fromkeys(filter(None, places))),
        datasets=known.get("hub", []),
        plots=plots,
        revisions=[] if run.branch else list(entry.revisions),
        branch=run.branch,
        remote_code=entry.kind != "adapter" and read_json(folder / "config.json")["model_type"] != "bert",
        example=entry.example or (None if entry.kind == "encoder" else next(iter(known.get("examples", [])), None)),
        licence=release.licence,
        language=release.language,
        wall_clock=manifest.training_seconds(run.results),
        uncased=is_uncased(folder),
        smoke=is_smoke(run.folder),
        version=release.version,
    )
    card = render_card(entry.kind, release.repo_id(entry.name), run.results, facts)
    (folder / "README.md").write_text(card, encoding="utf-8")


def is_smoke(run: Path) -> bool:
    """Whether the model of a run is of smoke size."""
    config = read_json(run / "config.json")
    first = (config.get("member_configs") or [config])[0]
    return bool(first.get("hidden_size") == HEAD_SIZE * find_size("smoke").heads)
