"""Files and cards of the models of a release."""

import json
import shutil
from pathlib import Path
from typing import Any

from ..cards import SMOKE, is_uncased, render_card
from ..data.dataset_card import KNOWN_SOURCES
from ..errors import UserError
from ..recipes import HEAD_SIZE, find_size
from ..runs.atomic_files import file_hash
from ..runs.provenance import portable_path
from .demo_data import EXAMPLES
from .manifest import BASE, MEMBERS
from .release_entries import AdapterEntry, CommitteeEntry, EncoderEntry, ModelEntry, Release

WEIGHTS = ("config.json", "model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
PLOTS = {
    "reliability.png": "Reliability before and after the temperature",
    "members.png": "Accuracy by number of members",
}
PACKAGE = Path(__file__).resolve().parents[1] / "models"
ENCODER_CODE = ("configuration_tlm", "convolution_tlm", "fast_paths_tlm", "layers_tlm", "modeling_tlm")
COMMITTEE_CODE = ("combination", "configuration", "joining", "modeling")
SIBLINGS = (*(f"{name}.py" for name in ENCODER_CODE), *(f"{name}_committee.py" for name in COMMITTEE_CODE))
"""Files of this package that may stand in a model repository."""
SMOKE_WIDTH = HEAD_SIZE * find_size(SMOKE).heads
"""Hidden size of encoders of smoke size."""
FIELDS_WITH_PATHS = ("_name_or_path", "name_or_path", "base_model_name_or_path")


def code_files(folder: Path) -> dict[str, str]:
    """SHA-256 of this package's own version of the code that a staged folder holds."""
    return {path.name: file_hash(PACKAGE / path.name) for path in sorted(folder.glob("*.py")) if path.name in SIBLINGS}


def stage_model_files(entry: ModelEntry, run: Path, folder: Path, release: Release) -> None:
    """Copy what a model repository holds; its code is that of this package, not what lies in the run.

    Raises:
        UserError: the run lacks a file.
    """
    names = [*TOKENIZER, *(() if isinstance(entry, AdapterEntry) else WEIGHTS)]
    for name in names:
        if not (run / name).is_file():
            raise UserError(f"The run {run} has no {name}: run it again into a new folder.")
        shutil.copyfile(run / name, folder / name)
    if isinstance(entry, AdapterEntry):
        for name in ADAPTER_FILES:
            shutil.copyfile(run / "adapter" / name, folder / name)
        _edit(folder / "adapter_config.json", base_model_name_or_path=release.repo_id(entry.base or ""))
    else:
        for path in sorted(run.glob("*.py")):
            if path.name not in SIBLINGS:
                raise UserError(f"{path} is code that is not of this package: take it out of the run.")
            shutil.copyfile(PACKAGE / path.name, folder / path.name)
        _edit(folder / "config.json")
    _edit(folder / "tokenizer_config.json")
    if isinstance(entry, CommitteeEntry):
        for name in PLOTS:
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)


def _edit(path: Path, **values: Any) -> None:
    """Take local paths out of a configuration, wherever they are nested, and set some values."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: clean(item)
                for key, item in value.items()
                if not (key in FIELDS_WITH_PATHS and isinstance(item, str) and item.startswith(("/", "~", ".")))
            }
        return [clean(item) for item in value] if isinstance(value, list) else value

    before = json.loads(path.read_text(encoding="utf-8"))
    after = {**clean(before), **values}
    if after != before:
        path.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_card(
    entry: ModelEntry,
    release: Release,
    folder: Path,
    results: dict[str, Any],
    evaluation: dict[str, Any] | None,
    wall_clock: float | None,
    revisions: dict[str, Path],
    branch: str | None,
    origins: list[str],
    smoke: bool,
) -> None:
    """Render `README.md`; what the release file leaves open is taken from the results.

    Args:
        entry: the repository.
        release: that it belongs to.
        folder: its staged folder, all else in place.
        results: of the run.
        evaluation: see `release_facts`; None for encoders.
        wall_clock: seconds of training.
        revisions: branches that the card names.
        branch: the branch that this card is for; None for main.
        origins: base or members, `owner/name` or `owner/name@branch`.
        smoke: whether the run is of smoke size.
    """
    repo_id = release.repo_id(entry.name)
    facts: dict[str, Any] = {
        "evaluation": evaluation,
        "licence": release.licence,
        "language": release.language,
        "wall_clock": wall_clock,
        "uncased": is_uncased(folder),
        "revisions": revisions,
        "branch": branch,
        "base_models": origins,
        "smoke": smoke,
        "remote_code": _needs_code(entry, folder),
        "release": {"repo_id": repo_id, "version": release.version},
        "plots": {name: caption for name, caption in PLOTS.items() if (folder / name).is_file()},
    }
    if isinstance(entry, EncoderEntry):
        corpus = str(results["corpus"])
        known = KNOWN_SOURCES.get(corpus)
        facts["corpus"] = entry.corpus or (known.title if known else corpus)
        facts["datasets"] = [release.repo_id(name) for name in entry.data] or _hub_ids(corpus)
        facts["example"] = entry.example
    else:
        task = str(results["task"])
        known = KNOWN_SOURCES.get(task)
        facts["task"] = getattr(entry, "task", None) or (known.title if known else portable_path(task))
        facts["baseline"] = (evaluation or {}).get("baseline")
        own = getattr(entry, "data", [])
        facts["datasets"] = [release.repo_id(name) for name in own] or _hub_ids(task)
        facts["example"] = entry.example or next(iter(EXAMPLES.get(task, [])), None)
    kind = entry.kind
    (folder / "README.md").write_text(render_card(kind, repo_id, results, **facts), encoding="utf-8")


def origins_of(entry: ModelEntry, inputs: dict[str, Any]) -> list[str]:
    """Places that a card names as base or members: those that the manifest found, and members elsewhere.

    Args:
        entry: the repository.
        inputs: of its manifest.
    """
    found = [each["repository"] for each in inputs.get(MEMBERS, [])]
    found += [inputs[BASE]["repository"]] if BASE in inputs else []
    # What stands on the Hub outside this release is known by its name alone.
    found += [name for name in getattr(entry, "members", []) if "/" in name]
    return list(dict.fromkeys(place for place in found if place is not None))


def member_configs(folder: Path) -> list[dict[str, Any]]:
    """Configurations of a committee's members; of another model its own alone."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("member_configs") or [config]


def is_smoke(run: Path, results: dict[str, Any], known: dict[str, bool]) -> bool:
    """Whether a run is of smoke size: an encoder says so itself, and what was made from one is what it is.

    Args:
        run: the run's folder.
        results: its results.
        known: the answer for other runs, by their weights' hashes.
    """
    settings = results["settings"]
    if "size" in settings:
        return bool(settings["size"] == SMOKE)
    read = settings.get("weights") or []
    answers = [known[weights] for weights in ([read] if isinstance(read, str) else read) if weights in known]
    if answers:
        return any(answers)
    return bool(member_configs(run)[0].get("hidden_size") == SMOKE_WIDTH)  # from scratch, or from elsewhere


def _needs_code(entry: ModelEntry, folder: Path) -> bool:
    """Whether the folder opens with trusted code alone: its type is none that transformers knows."""
    if isinstance(entry, AdapterEntry):
        return False
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] != "bert"


def _hub_ids(source: str) -> list[str]:
    """Data sets on the Hub that a known corpus or task comes from."""
    known = KNOWN_SOURCES.get(source)
    return [name for name in known.hub if "/" in name] if known else []
