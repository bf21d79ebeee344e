"""`manifest.json` (what one repository was made from and by what, the hash of every file) and `release.json` (all)."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import git_hash

from ..errors import UserError, refusing
from ..runs.atomic_files import Json, file_hash, read_json, write_json
from ..runs.provenance import commit, versions

MANIFEST_FILE, RELEASE_FILE = "manifest.json", "release.json"


@dataclass(frozen=True)
class Repository:
    """One repository of a staged release: `tree` has the hash of its folder, then of those of its branches."""

    kind: str
    repo_type: str
    repo_id: str
    tree: dict[str, str]


@dataclass(frozen=True)
class StagedRelease:
    """What `release.json` holds (all but `output`, its folder), in the order in which repositories are pushed."""

    output: Path
    version: str
    namespace: str
    repositories: list[Repository]

    @property
    def folders(self) -> list[tuple[Repository, str]]:
        """Every folder with its repository."""
        return [(repository, folder) for repository in self.repositories for folder in repository.tree]


def read_staged(output_dir: str | Path) -> StagedRelease:
    """The staged release in a folder; UserError where there is none, or its record is damaged."""
    output = Path(output_dir).expanduser()
    if not (output / RELEASE_FILE).is_file():
        raise UserError(f"There is no staged release in {output}: make one with `tlm release stage`.")
    record = read_json(output / RELEASE_FILE)
    with refusing(f"{output / RELEASE_FILE} is damaged", f"remove {output}, and stage again", KeyError, TypeError):
        repositories = [Repository(**each) for each in record.pop("repositories")]
        return StagedRelease(output, repositories=repositories, **record)


def describe_files(folder: Path) -> dict[str, Json]:
    """`size` in bytes, `sha256` and `git` hash of every file, by its path inside the folder."""
    files = {}
    for path in filter(Path.is_file, sorted(folder.rglob("*"))):
        facts = {"size": path.stat().st_size, "sha256": file_hash(path), "git": git_hash(path.read_bytes())}
        files[path.relative_to(folder).as_posix()] = facts
    return files


def tree_hash(folder: Path) -> str:
    """SHA-256 over the paths and contents of a folder, the manifest's included."""
    return hashlib.sha256(json.dumps(describe_files(folder)).encode()).hexdigest()


def changed_folders(staged: StagedRelease) -> Iterator[str]:
    """The folders that were changed, or removed, since they were staged."""
    for repository, folder in staged.folders:
        if tree_hash(staged.output / folder) != repository.tree[folder]:
            yield folder


def check_files(staged: StagedRelease) -> None:
    """Raise UserError for a folder that was changed since it was staged."""
    for folder in changed_folders(staged):
        raise UserError(f"{folder} was changed after it was staged: remove it, then stage and verify again.")


def training_seconds(results: Mapping[str, Any]) -> float | None:
    """Wall-clock seconds of all steps of a training, also where it was continued; None where none were timed."""
    if speed := results.get("speed"):
        return float(speed["seconds"] / speed["steps"] * results["steps"])
    seconds = results.get("seconds_since_start_or_continuation")
    # Of a training that was continued after its last steps, they are the seconds of scoring alone.
    return None if seconds is None or results.get("continued_from_step") else float(seconds)


def write_manifest(
    folder: Path, repo_id: str, kind: str, version: str, results: Json, inputs: Json | None = None, data: Any = None
) -> None:
    """Write `manifest.json` into a folder where all else is in place; `inputs` are the repositories that it read."""
    files, settings, tokens = describe_files(folder), results.get("settings", {}), results.get("tokens_per_epoch")
    record = {
        "schema": 1,
        "repository": repo_id,
        "kind": kind,
        "version": version,
        "package": {"version": versions().get("tlm-hf"), "commit": commit()},
        "run": {
            "recipe": results.get("model") if kind == "encoder" else None,
            **{key: results.get(key) for key in ("command", "date", "commit", "machine")},
            "versions": results.get("versions", versions()),
            "seeds": {key: value for key, value in settings.items() if key.endswith("seed")},
            "wall_clock_seconds": training_seconds(results),
            "tokens": None if tokens is None else round(tokens * results["epochs"]),
            "settings": settings,
        },
        "inputs": inputs or {},
        "data": data or {},
        "remote_code": {name: file["sha256"] for name, file in files.items() if name.endswith(".py")},
        "files": files,
    }
    write_json(folder / MANIFEST_FILE, record)
