"""`tlm release stage`: every repository of a release file as a folder `OUTPUT/owner/name`, all of them or none.

Further branches are `owner/name@branch`, `release.json` lists what is staged, and `.measured/` holds evaluations, so
that the same release staged again is the same to the last byte.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from huggingface_hub import RepoCard
from tqdm.auto import tqdm

from .. import runtime
from ..cards import card_template, package_data
from ..errors import UserError
from ..evaluation.classifier_facts import measure_classifier
from ..loading import weights_hash
from ..runs.atomic_files import Json, read_json, whole_folder, write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import portable_path
from ..training.finetune import NEW
from .demo_data import DEMO_FILE
from .manifest import MANIFEST_FILE, RELEASE_FILE, Repository, StagedRelease, build_manifest, read_staged, tree_hash
from .model_folder import SourceRun, is_smoke, stage_release_model
from .release_file import KINDS, Entry, Release, read_release
from .safety import check_folder
from .verify import VERIFIED_FILE

MEASURED = ".measured"
SPACE, DEMO = "tlm-demo", "demo"
USAGE = "## How to run it"  # heading of the Space's README.md from which on it holds for every demonstration


def stage(release_file: str, output_dir: str, *, data_root: str | None = None) -> Json:
    """Build every repository of a release, whole or not at all; UserError for what must not or cannot be built."""
    release = read_release(release_file)
    output = Path(output_dir).expanduser().resolve()
    _check_replaceable(output)
    with whole_folder(output) as root:
        stager = _Stager(release, root, output / MEASURED, data_root)
        repositories = [stager.stage(entry) for entry in tqdm(release.entries, desc="Staging", unit="repository")]
        staged = StagedRelease(output, release.version, release.namespace, repositories)
        write_json(root / RELEASE_FILE, staged.record())
        if (output / MEASURED).is_dir():
            shutil.copytree(output / MEASURED, root / MEASURED)
    lines = [f"{each.kind:<11}{folder}" for each, folder in staged.folders]
    lines.append(f"Staged in {output_dir}; next: tlm release verify.")
    return {**staged.record(), "table": "\n".join(lines)}


def _check_replaceable(output: Path) -> None:
    if output.is_file():
        raise UserError(f"The output folder {output} is a file: choose another --output-dir.")
    folders = [folder for _, folder in read_staged(output).folders] if (output / RELEASE_FILE).exists() else []
    owners = {Path(folder).parent.as_posix() for folder in folders}
    expected = {RELEASE_FILE, VERIFIED_FILE, MEASURED, *folders, *owners}
    for path in [*output.glob("*"), *(path for owner in owners for path in (output / owner).glob("*"))]:
        if (name := path.relative_to(output).as_posix()) not in expected:
            raise UserError(f"The output folder {output} holds other files ({name}): choose another --output-dir.")


def _read_results(folder: Path, kind: str) -> Json:
    results = read_json(folder / RESULTS_FILE) if (folder / RESULTS_FILE).is_file() else {}
    run_kind, needed = results.get("kind", "run that has not finished"), KINDS[kind].run
    if run_kind != needed:
        raise UserError(f"{folder} is a {run_kind}, and {kind}s come from a finished {needed}: name another.")
    if kind == "adapter" and not (folder / "adapter").is_dir():
        raise UserError(f"The run {folder} has no adapter: fine-tune with --lora-rank.")
    return results


class _Stager:
    """Stages one entry after the other; all that can be refused is refused when it is made, before any long work."""

    def __init__(self, release: Release, root: Path, measured: Path, data_root: str | None) -> None:
        self.release, self.root, self.measured, self.data_root = release, root, measured, data_root
        self.private = [] if data_root is None else [Path(data_root)]
        self.runs: dict[str, SourceRun] = {}  # by name, and by `name@branch`
        for entry in release.entries:
            self.private += [entry.source, *entry.revisions.values()]
            for branch, folder in [(None, entry.source), *entry.revisions.items()] if entry.kind != "space" else []:
                results = _read_results(folder, entry.kind)
                run = SourceRun(entry, folder, branch, results, weights_hash(str(folder)))
                self.runs[run.label] = run
        self.inputs = {label: self._inputs(run) for label, run in self.runs.items()}

    def stage(self, entry: Entry) -> Repository:
        """Build an entry's repository, a folder for each branch."""
        repo_id, tree = self.release.repo_id(entry.name), {}
        for branch in (None, *entry.revisions):
            name = f"{repo_id}@{branch}" if branch else repo_id
            folder = self.root / name
            folder.mkdir(parents=True)
            self._fill(entry, branch, folder)
            tree[name] = tree_hash(folder)
        return Repository(entry.kind, "space" if entry.kind == "space" else "model", repo_id, tree)

    def _fill(self, entry: Entry, branch: str | None, folder: Path) -> None:
        repo_id, version = self.release.repo_id(entry.name), self.release.version
        results, inputs, data = Json(), Json(), Json()
        if entry.kind == "space":
            smoke = any(is_smoke(self.runs[name].folder) for _, name in entry.links if name in self.runs)
            _stage_space(entry, self.release, folder, smoke=smoke)
        else:
            run = self.runs[f"{entry.name}@{branch}" if branch else entry.name]
            inputs, evaluation = self.inputs[run.label], None
            if entry.kind not in ("encoder", "frozen"):
                cached = self.measured / f"{folder.name}.json"
                evaluation = measure_classifier(run.folder, run.results, run.weights, cached, self.data_root)
            places: Json = {key: portable_path(run.results[key]) for key in ("corpus", "task") if key in run.results}
            results = run.results | places
            stage_release_model(replace(run, results=results), self.release, folder, evaluation, inputs)
            settings = results["settings"].items()
            data = {key: value for key, value in settings if key.endswith(("sha256", "revision"))} | places
        write_json(folder / MANIFEST_FILE, build_manifest(repo_id, entry.kind, version, folder, results, inputs, data))
        check_folder(folder, self.private)

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
    try:
        demo = read_json(entry.source / DEMO_FILE)
        for name in filter(None, [demo["corpus"] and demo["corpus"]["counts"], demo["study"]]):
            shutil.copyfile(entry.source / Path(name).name, target / Path(name).name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{entry.source} is not a whole demonstration ({error}): make it again.") from error

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
    text = card_template("space").render(
        tasks=demo["tasks"],
        encoders=list(entry.encoders),
        corpus=demo["corpus"] and demo["corpus"]["name"],
        study=bool(demo["study"]),
        smoke=smoke,
        usage=card.text[card.text.index(USAGE) :].strip(),
        models=models,
        version=release.version,
    )
    (folder / "README.md").write_text(f"---\n{card.data.to_yaml()}\n---\n\n{text.strip()}\n", encoding="utf-8")
