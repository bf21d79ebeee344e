"""Files and cards of model folders: those of a release, and those that the quickstart leaves."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..cards import SMOKE, CardFacts, is_uncased, render_card
from ..data.dataset_card import KNOWN_SOURCES
from ..errors import UserError
from ..recipes import HEAD_SIZE, find_size
from ..runs.atomic_files import Json, file_hash, read_json, write_json
from ..runs.output_folder import RESULTS_FILE
from ..runs.provenance import portable_path
from .demo_data import EXAMPLES
from .manifest import BASE, MEMBERS, training_seconds
from .release_file import Entry, Release

WEIGHTS = ("config.json", "model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
PLOTS = {
    "reliability.png": "Reliability before and after the temperature",
    "members.png": "Accuracy by number of members",
}
PACKAGE = Path(__file__).resolve().parents[1] / "models"
"""The only code that a model repository may hold."""
SMOKE_WIDTH = HEAD_SIZE * find_size(SMOKE).heads
"""Hidden size of encoders of smoke size."""
FIELDS_WITH_PATHS = ("_name_or_path", "name_or_path", "base_model_name_or_path")


@dataclass(frozen=True)
class SourceRun:
    """A finished run that becomes a repository, or one of its branches.

    Args:
        entry: the repository.
        folder: the run's output folder.
        branch: None for main.
        results: of the run.
        weights: their SHA-256.
    """

    entry: Entry
    folder: Path
    branch: str | None
    results: Json
    weights: str

    @property
    def label(self) -> str:
        """`name`, or `name@branch`."""
        return f"{self.entry.name}@{self.branch}" if self.branch else self.entry.name


def code_files(folder: Path) -> dict[str, str]:
    """SHA-256 of this package's own version of the code that a staged folder holds."""
    own = {path.name: path for path in PACKAGE.glob("*.py")}
    return {path.name: file_hash(own[path.name]) for path in sorted(folder.glob("*.py")) if path.name in own}


def stage_model(
    run_folder: Path, destination: Path, kind: str, results: Json, facts: CardFacts, plot: Path | None = None
) -> Path:
    """Build a model folder with a card from a finished run, outside of a release.

    It is renamed when whole, and replaces an older one of the same name.

    Args:
        run_folder: output folder of `pretrain`, `finetune` or `committee`.
        destination: the folder; its name is the model's name.
        kind: `encoder`, `classifier` or `committee`: which card.
        results: the run's results.
        facts: what the card says beside them.
        plot: a picture to copy beside the card.

    Returns:
        `destination`.

    Raises:
        UserError: the run has not finished, or lacks a model file.
    """
    if not (run_folder / RESULTS_FILE).is_file():
        raise UserError(f"The run {run_folder} has not finished, so there is nothing to stage: finish it first.")
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _copy(run_folder, partial, [*WEIGHTS, *TOKENIZER, *(file.name for file in run_folder.glob("*.py"))])
    if plot is not None:
        shutil.copy2(plot, partial / plot.name)
    facts = replace(facts, uncased=is_uncased(partial), plot=plot.name if plot else None)
    (partial / "README.md").write_text(render_card(kind, destination.name, results, facts), encoding="utf-8")
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)
    return destination


def _copy(run: Path, folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (run / name).is_file():
            raise UserError(f"The run {run} has no {name}: run it again into a new folder.")
        shutil.copyfile(run / name, folder / name)


def copy_model_files(run: SourceRun, folder: Path, release: Release) -> None:
    """Copy what a model repository holds; its code is that of this package, not what the run has.

    Raises:
        UserError: the run lacks a file, or holds other code.
    """
    _copy(run.folder, folder, TOKENIZER)
    _edit(folder / "tokenizer_config.json")
    if run.entry.kind == "adapter":
        _copy(run.folder / "adapter", folder, ADAPTER_FILES)
        _edit(folder / "adapter_config.json", base_model_name_or_path=release.repo_id(run.entry.base or ""))
        return
    _copy(run.folder, folder, WEIGHTS)
    _edit(folder / "config.json")
    for path in sorted(run.folder.glob("*.py")):
        if not (PACKAGE / path.name).is_file():
            raise UserError(f"{path} is code that is not of this package: take it out of the run.")
        shutil.copyfile(PACKAGE / path.name, folder / path.name)
    if run.entry.kind == "committee":
        _copy(run.folder, folder, [name for name in PLOTS if (run.folder / name).is_file()])


def _edit(path: Path, **values: str) -> None:
    """Take local paths out of a configuration, wherever they are nested, and set some values."""

    def is_local(key: str, item: Any) -> bool:
        return key in FIELDS_WITH_PATHS and isinstance(item, str) and item.startswith(("/", "~", "."))

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if not is_local(key, item)}
        return [clean(item) for item in value] if isinstance(value, list) else value

    before = read_json(path)
    after = {**clean(before), **values}
    if after != before:
        write_json(path, after)


def card_facts(run: SourceRun, release: Release, folder: Path, evaluation: Json | None, inputs: Json) -> CardFacts:
    """What the card of a staged folder says beside the results.

    Args:
        run: what the folder is made from.
        release: that it belongs to.
        folder: the staged folder, all else in place.
        evaluation: see `evaluation.classifier_facts`; None for encoders.
        inputs: base or members, as the manifest has them.
    """
    entry, is_encoder = run.entry, run.entry.kind == "encoder"
    source = str(run.results["corpus" if is_encoder else "task"])
    known = KNOWN_SOURCES.get(source)
    title = known.title if known else source if is_encoder else portable_path(source)
    examples = [] if is_encoder else EXAMPLES.get(source, [])
    return CardFacts(
        trained_on=(entry.corpus if is_encoder else entry.task) or title,
        baseline=(evaluation or {}).get("baseline"),
        evaluation=evaluation,
        base_models=_origins(entry, inputs),
        datasets=[release.repo_id(name) for name in entry.data]
        or [name for name in (known.hub if known else ()) if "/" in name],
        plots={name: caption for name, caption in PLOTS.items() if (folder / name).is_file()},
        revisions=[] if run.branch else list(entry.revisions),
        branch=run.branch,
        remote_code=entry.kind != "adapter" and read_json(folder / "config.json")["model_type"] != "bert",
        example=entry.example or next(iter(examples), None),
        licence=release.licence,
        language=release.language,
        wall_clock=training_seconds(run.results),
        uncased=is_uncased(folder),
        smoke=is_smoke(run.folder),
        version=release.version,
    )


def _origins(entry: Entry, inputs: Json) -> list[str]:
    """Places that a card names as base or members: those that the manifest found, and members elsewhere."""
    places = [each["repository"] for each in inputs.get(MEMBERS, [])]
    places += [inputs[BASE]["repository"]] if BASE in inputs else []
    places += [name for name in entry.members if "/" in name]  # outside this release a name is all that is known
    return list(dict.fromkeys(place for place in places if place is not None))


def is_smoke(run: Path) -> bool:
    """Whether the model of a run is of smoke size."""
    config = read_json(run / "config.json")
    return bool((config.get("member_configs") or [config])[0].get("hidden_size") == SMOKE_WIDTH)
