"""Files and cards of model folders: those of a release, and those that the quickstart leaves."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from ..cards import CardFacts, is_uncased, render_card
from ..errors import UserError
from ..export import RUNTIME_FILES, write_runtime
from ..models.modeling_tlm import TLMForMaskedLM
from ..recipes import HEAD_SIZE, find_size
from ..runs.atomic_files import Json, read_json, whole_folder, write_json
from ..runs.output_folder import RESULTS_FILE
from .demo_data import EXAMPLES
from .manifest import training_seconds
from .release_file import Entry, Release

WEIGHTS = ("config.json", "model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
ADAPTER_CONFIG = "adapter_config.json"
PLOT = "reliability.png"
SOURCES = {
    "wikipedia": ("English Wikipedia", ["wikimedia/wikipedia"]),
    "ag_news": ("AG News, sections of news", ["fancyzhx/ag_news"]),
    "dbpedia_14": ("DBpedia-14, kinds of things", ["fancyzhx/dbpedia_14"]),
    "fewrel": ("FewRel, relations between two entities", []),
    "docstrings": ("docstrings of Python libraries", []),
}
"""What cards say of corpora and tasks by name, and the data sets on the Hub."""
PACKAGE = Path(__file__).resolve().parents[1] / "models"  # the only code that a model repository may hold


@dataclass(frozen=True)
class SourceRun:
    """A finished run that becomes a repository, or its branch (None: main), and the SHA-256 of its weights."""

    entry: Entry
    folder: Path
    branch: str | None
    results: Json
    weights: str

    @property
    def label(self) -> str:
        """`name`, or `name@branch`."""
        return f"{self.entry.name}@{self.branch}" if self.branch else self.entry.name


def copy_model_files(run: Path, folder: Path, kind: str) -> None:
    """Copy what a model repository holds, with the package's own code; UserError where the run lacks it."""
    sources = [run / name for name in TOKENIZER]
    if kind == "adapter":
        sources += [run / "adapter" / name for name in (ADAPTER_CONFIG, "adapter_model.safetensors")]
    elif kind == "encoder" and not any(run.glob("*.py")):  # those that come with the package have no code beside them
        TLMForMaskedLM.from_pretrained(run).save_pretrained(folder)
    else:
        sources += [run / name for name in WEIGHTS]
        sources += [PACKAGE / path.name for path in run.glob("*.py") if path.name not in RUNTIME_FILES]
    if kind == "frozen":
        write_runtime(folder)
    for path in sources:
        if not path.is_file():
            raise UserError(f"The run {run} has no {path.name}, or code that is not of this package: run it again.")
        shutil.copyfile(path, folder / path.name)


def stage_model(
    run_folder: Path, destination: Path, kind: str, results: Json, facts: CardFacts, plot: Path | None = None
) -> Path:
    """Build a model folder, which is returned, from a finished run, outside of a release; an older one is replaced."""
    with whole_folder(destination) as folder:
        copy_model_files(run_folder, folder, kind)
        if plot is not None:
            shutil.copy2(plot, folder / plot.name)
        facts = replace(facts, uncased=is_uncased(folder), plots={plot.name: "accuracy"} if plot else {})
        (folder / "README.md").write_text(render_card(kind, destination.name, results, facts), encoding="utf-8")
    return destination


def stage_release_model(run: SourceRun, release: Release, folder: Path, evaluation: Json | None, inputs: Json) -> None:
    """Build the model folder of a release: files, results and card; `inputs` as the manifest has them."""
    entry = run.entry
    copy_model_files(run.folder, folder, entry.kind)
    if entry.kind == "adapter":
        base = {"base_model_name_or_path": release.repo_id(entry.base or "")}
        write_json(folder / ADAPTER_CONFIG, read_json(folder / ADAPTER_CONFIG) | base)
    plots = {PLOT: "Reliability before and after the temperature"} if (run.folder / PLOT).is_file() else {}
    for plot in plots:
        shutil.copyfile(run.folder / plot, folder / plot)
    write_json(folder / RESULTS_FILE, {**run.results, "evaluation": evaluation})
    source = str(run.results.get("corpus" if entry.kind == "encoder" else "task", ""))
    title, hub = SOURCES.get(source, (source, []))
    # Members outside this release are known by name alone.
    places = [each["repository"] for each in inputs.get("members") or inputs.values()]
    places += [name for name in entry.members if "/" in name]
    facts = CardFacts(
        trained_on=entry.corpus or entry.task or title,
        evaluation=evaluation,
        base_models=list(dict.fromkeys(filter(None, places))),
        datasets=hub,
        plots=plots,
        revisions=[] if run.branch else list(entry.revisions),
        branch=run.branch,
        remote_code=entry.kind != "adapter" and read_json(folder / "config.json")["model_type"] != "bert",
        example=entry.example or (None if entry.kind == "encoder" else next(iter(EXAMPLES.get(source, [])), None)),
        licence=release.licence,
        language=release.language,
        wall_clock=training_seconds(run.results),
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
