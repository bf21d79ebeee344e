"""`tlm release reproduce REPO`: a manifest turned back into the command line; run again, hashes compared."""

import itertools
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_token, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..data.overlap_report import OverlapArguments
from ..data.prepare import PrepareDataArguments
from ..errors import UserError
from ..loading import weights_hash
from ..runs.atomic_files import file_hash
from ..runs.provenance import machine, versions
from ..training.finetune import NEW
from .manifest import BASE, COMMANDS, MANIFEST_FILE, MEMBERS, OUTPUT, REPOSITORY
from .model_folder import SMOKE_WIDTH, member_configs
from .safety import redact

logger = logging.getLogger(__name__)
DECISIVE_VERSIONS = ("tlm-hf", "torch", "transformers", "tokenizers", "datasets", "peft", "accelerate", "numpy")
ALLOWED: dict[str, dict[str, Any]] = {
    "encoder": {"pretrain": COMMANDS["pretrain"][1]},
    "classifier": {"finetune": COMMANDS["finetune"][1]},
    "adapter": {"finetune": COMMANDS["finetune"][1]},
    "committee": {"committee": COMMANDS["committee"][1]},
    "data": {"prepare-data": PrepareDataArguments, "overlap": OverlapArguments},
}
"""Commands that a manifest of each kind may name."""
INPUTS = {"classifier": (BASE,), "adapter": (BASE,), "committee": (MEMBERS,)}
"""What models are put in place of, by kind."""
WRITES = frozenset({"output_dir", "json", "report_to"})
RESULT = re.compile(r"\.|step-\d+")
"""Where in the output folder the result may lie: a manifest can come from a stranger."""
SMOKE_NUMBER = 20_000
"""Runs of encoders of smoke size, and of no more texts, steps or epochs, are done without being asked."""
WEIGHTS = {"adapter": ("adapter/adapter_model.safetensors", "adapter_model.safetensors")}
"""Where a run leaves what a repository holds, and what that is called there; otherwise `model.safetensors`."""


def reproduce(
    repo: str, *, revision: str | None = None, run: bool = False, output_dir: str | None = None
) -> dict[str, Any]:
    """Show the command that made a repository; at smoke size, or when asked, run it again and compare.

    Args:
        repo: folder of a staged or downloaded repository, or `owner/name` (or `owner/name@branch`) on the Hub.
        revision: branch or tag; None for main.
        run: also where it takes long.
        output_dir: where the new run goes; None for a temporary folder that is removed.

    Returns:
        `command`, and where it was run: `files` with `expected` and `found` SHA-256, `identical`, and `differences` of
        versions, processor kind and threads, under which equal hashes are not promised.

    Raises:
        UserError: no manifest, a repository that cannot be made again, or one of whose inputs is missing or another.
    """
    folder = find_repository(repo if revision is None else f"{repo.rstrip('/')}@{revision}", None)
    manifest = read_manifest(folder)
    words = manifest["reproduce"]["command"]
    check_command(manifest)
    if not words:
        raise UserError(
            f"{manifest['repository']} is a {manifest['kind']}, which no training makes: nothing to reproduce."
        )
    shown = shlex.join(words)
    missing = [name for name in _compared(manifest) if name not in manifest["files"]]
    if missing:
        raise UserError(f"{folder / MANIFEST_FILE} is damaged (it has no hash of {missing[0]}): get it again.")
    is_here = Path(repo).expanduser().is_dir()
    if not (run or (is_here and _is_small(folder, manifest))):
        return {"command": shown, "table": f"{shown}\n(from the Hub, or larger than smoke size: --run runs it again)"}
    inputs = _find_inputs(folder, manifest)
    with tempfile.TemporaryDirectory(prefix="tlm-reproduce-") as scratch:
        # A data set is named after its folder.
        target = Path(output_dir).expanduser() if output_dir else Path(scratch) / manifest["repository"].split("/")[-1]
        if target.exists() and any(target.iterdir()):
            raise UserError(f"The output folder {target} is not empty: choose another --output-dir.")
        line = _fill(words, {**inputs, REPOSITORY: [str(folder)], OUTPUT: [str(target)]})
        logger.info("Running %s ...", shlex.join(["tlm", *line[1:]]))
        _run(line)
        files = _compare(manifest, target)
    differences = environment_differences(manifest)
    identical = all(each["expected"] == each["found"] for each in files.values())
    verdict = "The same to the last byte." if identical else "NOT the same."
    lines = [
        shown,
        *(f"{name}: {'same' if each['expected'] == each['found'] else 'differs'}" for name, each in files.items()),
    ]
    lines += [f"here {key} is {here}, there it was {there}" for key, (there, here) in differences.items()]
    return {
        "table": "\n".join([*lines, verdict]),
        "command": shown,
        "files": files,
        "identical": identical,
        "differences": differences,
    }


def check_command(manifest: dict[str, Any]) -> None:
    """Refuse a command that did not make such a repository: a manifest can come from a stranger.

    Raises:
        UserError: another command than the kind's, an option that it does not have, another place to write to than the
            one that reproduction gives, or inputs that stand for anything else than models.
    """
    words, repository = manifest["reproduce"]["command"], manifest["repository"]
    if not words:
        return
    allowed = ALLOWED.get(manifest["kind"], {})
    name = words[1] if len(words) > 1 else ""
    if words[0] != "tlm" or name not in allowed:
        raise UserError(f"The manifest of {repository} names a command that makes no {manifest['kind']}.")
    if words[-2:] != ["--output-dir", OUTPUT] or any(OUTPUT in word for word in words[:-1]):
        raise UserError(f"The manifest of {repository} does not write to {OUTPUT} alone, so it is not run.")
    known = {entry.name for entry in fields(allowed[name])} - WRITES
    for place, word in enumerate(words[2:-2]):
        option = word.split("=")[0].removeprefix("--").replace("-", "_")
        is_value = not word.startswith("-") or word.lstrip("-")[:1].isdigit()
        if (is_value and place == 0) or (not is_value and (not word.startswith("--") or option not in known)):
            raise UserError(f"The manifest of {repository} gives {word}, which is not run.")
    for key in manifest["reproduce"]["inputs"]:
        if key not in INPUTS.get(manifest["kind"], ()):
            raise UserError(f"The manifest of {repository} puts something in place of {key}, which is not done.")


def find_repository(repo: str, near: Path | None) -> Path:
    """A repository's folder: a path, one beside `near` (as in a staged release), or a copy from the Hub.

    Args:
        repo: path, `owner/name` or `owner/name@branch`.
        near: folder of the repository that names it; None for none.

    Raises:
        UserError: it is nowhere, or why it cannot be looked for.
    """
    places = [Path(repo).expanduser(), *([near.parent.parent / repo] if near is not None else [])]
    for place in places:
        if (place / MANIFEST_FILE).is_file():
            return place.resolve()
    if places[0].is_dir():
        raise UserError(f"{repo} has no {MANIFEST_FILE}, so it is no repository of a release: name another.")
    name, _, revision = repo.partition("@")
    if Path(name).expanduser().is_dir() and (Path(name).expanduser() / MANIFEST_FILE).is_file():
        raise UserError(f"{name} has no branch {revision!r} beside it: name one that was staged, or leave it out.")
    for repo_type in ("model", "dataset"):
        try:
            return Path(snapshot_download(name, repo_type=repo_type, revision=revision or None))
        except RevisionNotFoundError as error:
            raise UserError(f"{name} has no branch or tag {revision!r}: look at what the Hub shows.") from error
        except HFValidationError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(
                f"{repo} is neither a folder with {MANIFEST_FILE} nor a name on the Hub ({reason}): correct it."
            ) from error
        except RepositoryNotFoundError:
            continue
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            raise UserError(f"{repo} is no folder here, and {_why(error)}.") from error
    raise UserError(
        f"{repo} is neither a folder with {MANIFEST_FILE} nor a repository that the Hub shows to this token: check its "
        "name, and log in with `hf auth login` if it is private."
    )


def _why(error: BaseException) -> str:
    """Why the Hub could not be asked."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so the Hub is not asked: unset it, or name a folder"
    reason = redact(" ".join(str(error.__cause__ or error).split()), get_token())[:200].rstrip(". ")
    return f"the Hub gave no answer ({type(error).__name__}: {reason}): try again later, or name a folder"


def read_manifest(folder: Path) -> dict[str, Any]:
    """`manifest.json` of a repository, its parts of the kinds that reproduction needs.

    Raises:
        UserError: missing or damaged.
    """
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        command, inputs = found["reproduce"]["command"], found["reproduce"].get("inputs", {})
        whole = [
            isinstance(found["kind"], str), isinstance(found["repository"], str),
            isinstance(command, list) and all(isinstance(word, str) for word in command),
            all(isinstance(facts["sha256"], str) for facts in found["files"].values()),
            isinstance(found["run"]["versions"], dict), isinstance(found["run"]["settings"], dict),
        ]  # fmt: skip
        for value in inputs.values():
            for each in value if isinstance(value, list) else [value]:
                whole += [isinstance(each["repository"], str | None), isinstance(each["weights"], str)]
        if not all(whole):
            raise ValueError("a part of it is of another kind")
        found["reproduce"]["inputs"] = inputs
    except OSError as error:
        raise UserError(f"{folder} has no {MANIFEST_FILE}: name a repository of a release.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / MANIFEST_FILE} is damaged ({error}): get it again.") from error
    return found


def environment_differences(manifest: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs here from where the run was made, as (there, here)."""
    run = manifest["run"]
    here, computer = versions(), machine()
    found = {
        name: (run["versions"].get(name), here.get(name))
        for name in DECISIVE_VERSIONS
        if run["versions"].get(name) != here.get(name)
    }
    there = run.get("machine") or {}
    for key in ("processor", "architecture", "avx512_bf16", "accelerator"):
        if there.get(key) != computer.get(key):
            found[key] = (there.get(key), computer.get(key))
    return found


def _is_small(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether to run without being asked: both what the repository holds and what the command says must be small."""
    words = manifest["reproduce"]["command"]
    if words[1] == "pretrain" and ("--size", "smoke") not in itertools.pairwise(words):
        return False
    if any(word.isdigit() and int(word) > SMOKE_NUMBER for word in re.split(r"[\s=]", " ".join(words))):
        return False
    if manifest["kind"] == "data":
        return True
    if manifest["kind"] == "adapter":
        return bool(manifest["run"]["settings"].get("lora_rank")) and _width_of_base(folder, manifest) <= SMOKE_WIDTH
    return int(member_configs(folder)[0].get("hidden_size", SMOKE_WIDTH + 1)) <= SMOKE_WIDTH


def _width_of_base(folder: Path, manifest: dict[str, Any]) -> int:
    base = find_repository(manifest["reproduce"]["inputs"][BASE]["repository"], folder)
    return int(json.loads((base / "config.json").read_text(encoding="utf-8"))["hidden_size"])


def _find_inputs(folder: Path, manifest: dict[str, Any]) -> dict[str, list[str]]:
    """Folders of what the command reads, each with the weights that the run had read."""
    found: dict[str, list[str]] = {}
    for placeholder, needed in manifest["reproduce"]["inputs"].items():  # repositories may be `owner/name@branch`
        places = []
        for place, each in enumerate(needed if isinstance(needed, list) else [needed]):
            what = f"member {place}" if placeholder == MEMBERS else "base model"
            if each["repository"] is None:
                raise UserError(
                    f"The {what} of {manifest['repository']} has no repository: release it as well to make this again."
                )
            there = find_repository(each["repository"], folder)
            if each["weights"] != NEW and weights_hash(str(there)) != each["weights"]:
                raise UserError(
                    f"{each['repository']} has other weights than the {what} that {manifest['repository']} was made "
                    "from: get the version of the same release."
                )
            places.append(str(there))
        found[placeholder] = places
    return found


def _fill(words: list[str], values: dict[str, list[str]]) -> list[str]:
    line: list[str] = []
    for word in words:
        line += values.get(word, [_expand(word)])
    return line


def _expand(word: str) -> str:
    """The folder of real text put in; no other variable."""
    root = os.environ.get("TLM_DATA")
    return root + word.removeprefix("$TLM_DATA") if root and word.startswith("$TLM_DATA/") else word


def _run(words: list[str]) -> None:
    command = [sys.executable, "-m", "tlm_hf.commands.main", *words[1:]]
    done = subprocess.run(command, check=False, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"})
    if done.returncode:
        raise UserError(f"The command ended with code {done.returncode}: see above what it said.")


def _compared(manifest: dict[str, Any]) -> dict[str, str]:
    """What is compared: where it lies in the output folder, by its name in the repository."""
    if manifest["kind"] == "data":
        return {name: name for name in manifest["files"] if name.endswith(".parquet")}
    made, released = WEIGHTS.get(manifest["kind"], ("model.safetensors", "model.safetensors"))
    result = str(manifest["reproduce"].get("result", "."))
    if not RESULT.fullmatch(result):
        raise UserError(f"The manifest of {manifest['repository']} names {result!r} as its result: get it again.")
    return {released: f"{result}/{made}"}


def _compare(manifest: dict[str, Any], target: Path) -> dict[str, dict[str, Any]]:
    return {
        released: {
            "expected": manifest["files"][released]["sha256"],
            "found": file_hash(target / made) if (target / made).is_file() else None,
        }
        for released, made in _compared(manifest).items()
    }
