"""`manifest.json`: what a repository was made from and by what, and the hash of every file in it."""

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..data.tasks import TEXT_OPTIONS
from ..runs.atomic_files import file_hash
from ..runs.provenance import commit, versions
from ..training.finetune import FinetuneArguments
from ..training.join_committee import CommitteeArguments
from ..training.pretrain_options import PretrainArguments
from ..training.snapshots import snapshot_folder

MANIFEST_FILE = "manifest.json"
REPOSITORY, BASE, MEMBERS, OUTPUT = "{repository}", "{base}", "{members}", "{output}"
"""Stand in a manifest's command for folders: of the repository itself, of its base model, of the members, of the
result."""
COMMANDS: dict[str, tuple[str, Any]] = {
    "pretrain": ("pretrain", PretrainArguments),
    "finetune": ("finetune", FinetuneArguments),
    "committee": ("committee", CommitteeArguments),
}
RENAMED = {"threads": "num_threads"}
"""Settings whose option has another name."""


def git_hash(path: Path) -> str:
    """What git, and with it the Hub, calls a file's content (SHA-1 of a blob)."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """`size` in bytes, `sha256` and `git` hash of every file but the manifest, by its path inside the folder."""
    return {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": file_hash(path),
            "git": git_hash(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() != MANIFEST_FILE
    }


def tree_hash(folder: Path) -> str:
    """SHA-256 over the paths and contents of a folder, the manifest's included."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{file_hash(path)}\n".encode())
    return digest.hexdigest()


def result_folder(results: Mapping[str, Any]) -> str:
    """Where in a run's folder these results' weights lie: `step-N` for a snapshot, "." for the run's own."""
    return snapshot_folder(Path(), results["snapshot"]).as_posix() if results.get("snapshot") else "."


def training_seconds(results: Mapping[str, Any]) -> float | None:
    """Wall-clock seconds of all steps of a training, also where it was continued; None where there were none."""
    speed = results.get("speed")
    if speed:
        return float(speed["seconds"] / speed["steps"] * results["steps"])
    found = results.get("seconds_since_start_or_continuation")
    return None if found is None else float(found)


def run_command(results: Mapping[str, Any]) -> list[str]:
    """The command that a run's settings amount to, with placeholders for folders; [] for other kinds of results."""
    if results.get("kind") not in COMMANDS:
        return []
    name, arguments_class = COMMANDS[results["kind"]]
    settings = {RENAMED.get(key, key): value for key, value in results["settings"].items()}
    settings |= {key: value for key, value in results.get("task_options", {}).items() if key in TEXT_OPTIONS}
    for key in ("corpus", "task"):
        if key in results:
            settings[key] = results[key]
    if name == "pretrain":  # off it is not recorded, and left out it would be the schedule's
        settings.setdefault("unigram_bias", False)
    known = {entry.name: entry.default for entry in fields(arguments_class)}
    words = ["tlm", name]
    for key, value in settings.items():
        if key not in known or value is None or value == []:
            continue
        if value == known[key] and key not in ("corpus", "task"):
            continue
        words.append(f"--{key.replace('_', '-')}")
        words += [str(item) for item in value] if isinstance(value, list) else [_word(value)]
    if name == "committee":
        words += ["--members", MEMBERS]
    elif name == "finetune":
        # From scratch the architecture and the tokenizer are all that is read, and the repository itself has them.
        words += ["--model", REPOSITORY if results["settings"].get("from_scratch") else BASE]
    elif "tokenizer_sha256" in settings:
        words += ["--tokenizer", REPOSITORY]
    return [*words, "--output-dir", OUTPUT]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def dataset_command(record: Mapping[str, Any]) -> list[str]:
    """The command that made a data set folder, with a placeholder for the folder."""
    words = shlex.split(str(record["command"]))
    if words and Path(words[0]).name.startswith("python"):
        words = ["tlm", Path(words[1]).stem.replace("_", "-"), *words[2:]]
    kept: list[str] = []
    skip = False
    for word in words:
        option = word.split("=")[0].replace("_", "-")
        if option in ("--output-dir", "--json"):
            skip = "=" not in word
        elif skip:
            skip = False
        else:
            kept.append(word)
    return [*kept, "--output-dir", OUTPUT]


def build_manifest(
    repo_id: str,
    kind: str,
    version: str,
    folder: Path,
    results: Mapping[str, Any] | None,
    *,
    command: list[str],
    inputs: Mapping[str, Any],
    code: Mapping[str, str],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """What `manifest.json` holds.

    Args:
        repo_id: `owner/name`.
        kind: `encoder`, `classifier`, `adapter`, `committee`, `data` or `space`.
        version: of the release.
        folder: the staged folder, all but its manifest in place.
        results: of the run, or the facts of a data set; None for a Space.
        command: with placeholders; [] where there is nothing to run again.
        inputs: repositories and hashes that the command reads, by placeholder.
        code: SHA-256 of the remote code by file name.
        data: hashes and revisions of the texts.

    Returns:
        JSON values without paths of this machine.
    """
    found = dict(results or {})
    settings = found.get("settings", {})
    tokens = found.get("tokens_per_epoch")
    return {
        "schema": 1,
        "repository": repo_id,
        "kind": kind,
        "version": version,
        "package": {"version": versions().get("tlm-hf"), "commit": commit()},
        "run": {
            "recipe": found.get("model") if kind == "encoder" else None,
            "command": found.get("command"),
            "date": found.get("date"),
            "commit": found.get("commit"),
            "versions": found.get("versions", versions()),
            "machine": found.get("machine"),
            "seeds": {key: value for key, value in settings.items() if key.endswith("seed")},
            "wall_clock_seconds": training_seconds(found),
            "tokens": None if tokens is None else round(tokens * found["epochs"]),
            "settings": settings,
        },
        "data": dict(data),
        # Of a snapshot the command makes the whole run, and `result` says where in its folder the snapshot lies.
        "reproduce": {"command": command, "inputs": dict(inputs), "result": result_folder(found)},
        "remote_code": dict(code),
        "files": describe_files(folder),
    }
