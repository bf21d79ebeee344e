"""`manifest.json` (what one repository was made from and by what, the hash of every file) and `release.json` (all)."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils.sha import git_hash

from ..data.dataset_folder import PrepareDataArguments
from ..data.overlap_report import OverlapArguments
from ..data.tasks import TEXT_OPTIONS
from ..errors import UserError
from ..export import FreezeArguments
from ..runs.atomic_files import Json, file_hash, read_json
from ..runs.provenance import commit, versions
from ..training import finetune_options, pretrain_options
from ..training.join_committee import CommitteeArguments
from ..training.options import option_defaults

MANIFEST_FILE, RELEASE_FILE = "manifest.json", "release.json"
REPOSITORY, BASE, MEMBERS, OUTPUT = "{repository}", "{base}", "{members}", "{output}"
"""In a manifest's command: folders of the repository itself, of its base model, of the members, of the result."""
NOTHING: Mapping[str, Any] = MappingProxyType({})
COMMANDS: dict[str, Sequence[type]] = {
    "pretrain": pretrain_options.GROUPS,
    "finetune": finetune_options.GROUPS,
    "committee": (CommitteeArguments,),
    "freeze": (FreezeArguments,),
    "prepare-data": (PrepareDataArguments,),
    "overlap": (OverlapArguments,),
}


@dataclass(frozen=True)
class Repository:
    """One repository of a staged release: `tree` has the hash of its folder, then of those of its branches."""

    kind: str
    repo_type: str
    repo_id: str
    tree: dict[str, str]


@dataclass(frozen=True)
class StagedRelease:
    """What `release.json` holds, in the order in which repositories are pushed, and its folder."""

    output: Path
    version: str
    namespace: str
    collection: Json | None
    repositories: list[Repository]

    @property
    def folders(self) -> list[tuple[Repository, str]]:
        """Every folder with its repository."""
        return [(repository, folder) for repository in self.repositories for folder in repository.tree]

    def record(self) -> Json:
        """What `release.json` holds."""
        return {key: value for key, value in asdict(self).items() if key != "output"}


def read_staged(output_dir: str | Path) -> StagedRelease:
    """The staged release in a folder; UserError where there is none, or its record is damaged."""
    output = Path(output_dir).expanduser()
    if not (output / RELEASE_FILE).is_file():
        raise UserError(f"There is no staged release in {output}: make one with `tlm release stage`.")
    record = read_json(output / RELEASE_FILE)
    try:
        repositories = [Repository(**each) for each in record.pop("repositories")]
        return StagedRelease(output, repositories=repositories, **record)
    except (KeyError, TypeError) as error:
        raise UserError(f"{output / RELEASE_FILE} is damaged ({error}): remove {output}, and stage again.") from error


def describe_files(folder: Path) -> dict[str, Json]:
    """`size` in bytes, `sha256` and `git` hash of every file, by its path inside the folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: {"size": path.stat().st_size, "sha256": file_hash(path), "git": git_hash(path.read_bytes())}
        for name, path in paths.items()
    }


def tree_hash(folder: Path) -> str:
    """SHA-256 over the paths and contents of a folder, the manifest's included."""
    return hashlib.sha256(json.dumps(describe_files(folder)).encode()).hexdigest()


def check_files(staged: StagedRelease) -> None:
    """Raise UserError for a folder that was changed since it was staged."""
    for repository, folder in staged.folders:
        if tree_hash(staged.output / folder) != repository.tree[folder]:
            raise UserError(f"{folder} was changed after the release was staged: stage and verify again.")


def training_seconds(results: Mapping[str, Any]) -> float | None:
    """Wall-clock seconds of all steps of a training, also where it was continued; None where there were none."""
    if speed := results.get("speed"):
        return float(speed["seconds"] / speed["steps"] * results["steps"])
    seconds = results.get("seconds_since_start_or_continuation")
    return None if seconds is None else float(seconds)


def run_command(results: Mapping[str, Any]) -> list[str]:
    """The command that a run's settings amount to, with placeholders for folders."""
    name = results["kind"]
    settings = {("num_threads" if key == "threads" else key): value for key, value in results["settings"].items()}
    settings |= {key: value for key, value in results.get("task_options", {}).items() if key in TEXT_OPTIONS}
    settings |= {key: results[key] for key in ("corpus", "task") if key in results}
    is_continued = name == "pretrain" and "weights" in settings
    if name == "pretrain" and not is_continued:  # off it is not recorded, and left out it would be the schedule's
        settings.setdefault("unigram_bias", False)
    if "batch_size" in settings:  # which it decided
        settings.pop("per_device_train_batch_size", None)
    defaults = option_defaults(COMMANDS[name])
    words = ["tlm", name]
    for key, value in settings.items():
        if key in defaults and value not in (None, []) and (value != defaults[key] or key in ("corpus", "task")):
            items = value if isinstance(value, list) else [value]
            words.append(f"--{key.replace('_', '-')}")
            words += [str(item).lower() if isinstance(item, bool) else str(item) for item in items]
    if name == "committee":
        words += ["--members", MEMBERS]
    elif name == "finetune":
        # From scratch the architecture and the tokenizer are all that is read, and the repository itself has them.
        words += ["--model", REPOSITORY if results["settings"].get("from_scratch") else BASE]
    elif is_continued or name == "freeze":
        words += ["--model", BASE]
    elif "tokenizer_sha256" in settings:
        words += ["--tokenizer", REPOSITORY]
    return [*words, "--output-dir", OUTPUT]


def dataset_command(record: Mapping[str, Any]) -> list[str]:
    """The command that made a data set folder, with a placeholder for the folder."""
    words = shlex.split(re.sub(r"\s--(output[-_]dir|json)[ =]('[^']*'|\S+)", "", str(record["command"])))
    return [*words, "--output-dir", OUTPUT]


def build_manifest(
    repo_id: str,
    kind: str,
    version: str,
    folder: Path,
    *,
    results: Mapping[str, Any] = NOTHING,
    command: Sequence[str] = (),
    inputs: Mapping[str, Any] = NOTHING,
    data: Mapping[str, Any] = NOTHING,
) -> Json:
    """What `manifest.json` holds, for a folder in which all else is in place.

    `results` are a run's or a data set's facts; `command` made it of `inputs`, repositories and hashes by placeholder.
    """
    files = describe_files(folder)
    settings, tokens = results.get("settings", {}), results.get("tokens_per_epoch")
    return {
        "schema": 1,
        "repository": repo_id,
        "kind": kind,
        "version": version,
        "package": {"version": versions().get("tlm-hf"), "commit": commit()},
        "run": {
            "recipe": results.get("model") if kind == "encoder" else None,
            "command": results.get("command"),
            "date": results.get("date"),
            "commit": results.get("commit"),
            "versions": results.get("versions", versions()),
            "machine": results.get("machine"),
            "seeds": {key: value for key, value in settings.items() if key.endswith("seed")},
            "wall_clock_seconds": training_seconds(results),
            "tokens": None if tokens is None else round(tokens * results["epochs"]),
            "settings": settings,
        },
        "data": dict(data),
        "reproduce": {"command": list(command), "inputs": dict(inputs)},
        "remote_code": {name: facts["sha256"] for name, facts in files.items() if name.endswith(".py")},
        "files": files,
    }


def reproduce(repo: str, *, revision: str | None = None) -> Json:
    """The command that made a repository (a folder, or a name on the Hub), after a check; nothing is run.

    Returns:
        `table`, for people; `command`; `inputs`: the repositories that its placeholders are to be replaced by.

    Raises:
        UserError: no manifest, or one without a command that makes such a repository.
    """
    name, _, branch = repo.rstrip("/").partition("@")
    manifest = _read_manifest(name, revision or branch or None)
    try:
        words, inputs = manifest["reproduce"]["command"], manifest["reproduce"]["inputs"]
        # A manifest can come from a stranger.
        if words[:1] != ["tlm"] or words[1] not in COMMANDS or words[-2:] != ["--output-dir", OUTPUT]:
            raise ValueError(f"none of our commands makes a {manifest['kind']}")
        lines = [shlex.join(words), f"{OUTPUT} is a new folder."]
        lines += [f"{REPOSITORY} is {repo} itself."] if REPOSITORY in words else []
        for placeholder, needed in inputs.items():
            for each in needed if isinstance(needed, list) else [needed]:
                place = each["repository"] or "a model that was not released"
                lines.append(f"{placeholder} is {place}, whose weights have the SHA-256 {each['weights']}.")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The manifest of {repo} does not say how to make it ({error}): get it again.") from error
    return {"table": "\n".join(lines), "command": lines[0], "inputs": inputs}


def _read_manifest(name: str, revision: str | None) -> Json:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return read_json(folder.with_name(f"{folder.name}@{revision}" if revision else folder.name) / MANIFEST_FILE)
    try:
        try:
            return read_json(hf_hub_download(name, MANIFEST_FILE, revision=revision))
        except RepositoryNotFoundError:
            return read_json(hf_hub_download(name, MANIFEST_FILE, revision=revision, repo_type="dataset"))
    except (OSError, ValueError) as error:  # what huggingface_hub raises is one of both
        raise UserError(
            f"{name} is not a folder here, and the Hub has no {MANIFEST_FILE} of it "
            f"({str(error).strip().splitlines()[0]}): correct the name, or log in if it is private."
        ) from error
