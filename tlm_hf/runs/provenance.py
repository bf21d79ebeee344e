"""What made a result: command, commit, machine, versions; without paths of the machine."""

import contextlib
import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .atomic_files import Json

PACKAGES = "tlm-hf torch transformers datasets evaluate accelerate huggingface-hub tokenizers peft scikit-learn numpy"


def portable_path(value: str) -> str:
    """Write a path as other machines can read it: `$TLM_DATA/...`, relative to here, or its last part."""
    root, path = os.environ.get("TLM_DATA"), Path(value)
    if root and path.is_relative_to(root):
        return "/".join(["$TLM_DATA", *path.relative_to(root).parts])
    if not path.is_absolute():
        return value
    here = Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else path.name


def portable(value: Any) -> Any:
    """Apply `portable_path` to every absolute path inside a JSON value, also in `NAME=/path` and `NAME=word:/path`."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    match = re.fullmatch(r"((?:[\w.-]+=)?(?:[\w-]+:)?)(/(?!/).*)", value) if isinstance(value, str) else None
    return value if match is None else match[1] + portable_path(match[2])


def command_line(arguments: list[str] | None = None) -> str:
    """The command that is running, as a user would type it elsewhere, its token blacked out."""
    program, *rest = sys.argv if arguments is None else arguments
    name = Path(program).name
    if name.endswith(".py"):
        name = "tlm" if name == "main.py" else f"python {portable_path(str(Path(program).resolve()))}"
    for index, word in enumerate(rest):
        if re.match(r"--hub[-_]token=", word):
            rest[index] = "--hub-token=***"
        elif index and re.fullmatch(r"--hub[-_]token", rest[index - 1]):
            rest[index] = "***"
    variable = re.compile(r"\$\w+(/[\w./-]*)?")  # the shell is to read it
    return " ".join([name, *(each if variable.fullmatch(each) else shlex.quote(each) for each in portable(rest))])


def commit() -> str | None:
    """Commit of the checkout that the package runs from, with `-dirty` when it was changed; None elsewhere."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "tlm_hf", "scripts"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed.strip() else head


def machine() -> Json:
    """Processor (clouds call several ones "AMD EPYC"), cores, threads in use, memory in GiB and accelerator."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "processor": model.group(1).strip() if model else platform.processor() or platform.machine(),
        "family_and_model": re.findall(r"^(?:cpu family|model)\s*:\s*(\d+)", text, re.MULTILINE)[:2],
        "architecture": platform.machine(),
        "avx512_bf16": re.search(r"\bavx512_bf16\b", text) is not None,
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that a result depends on."""
    installed = {}
    for package in PACKAGES.split():
        with contextlib.suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def provenance() -> Json:
    """Command, commit, date, machine and versions, for each results file."""
    return {
        "command": command_line(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }
