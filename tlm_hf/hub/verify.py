"""`tlm release verify`: each staged repository is opened by a program without this package."""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from ..errors import UserError, check_installed
from ..runs.atomic_files import Json, file_hash, read_json, write_json
from .manifest import RELEASE_FILE, Repository, StagedRelease, check_files, read_staged
from .safety import redact

DRIVER = Path(__file__).with_name("verify_driver.py")
VERIFIED_FILE = "verified.json"
HIDDEN_VARIABLES = ("HF_", "TLM_", "PYTHON", "HUGGING", "TRANSFORMERS_", "SPACE_")
SET = "HF_HUB_OFFLINE HF_HUB_DISABLE_TELEMETRY OMP_NUM_THREADS PYTHONDONTWRITEBYTECODE"
VARIABLES = {"TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "Agg", **dict.fromkeys(SET.split(), "1")}


def verify(output_dir: str) -> Json:
    """Check every staged repository by `verify_driver`, offline, with an empty cache; UserError for what fails."""
    staged = read_staged(output_dir)
    if any(repository.kind == "space" for repository in staged.repositories):
        check_installed("gradio")
    check_files(staged)
    checks: dict[str, list[str]] = {}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        results = pool.map(lambda repository: _open(staged, repository), staged.repositories)
        for passed in tqdm(results, total=len(staged.repositories), desc="Verifying", unit="repository"):
            checks |= passed
    check_files(staged)  # what was opened is what was staged
    write_json(staged.output / VERIFIED_FILE, {"release": file_hash(staged.output / RELEASE_FILE), "checks": checks})
    lines = [f"{folder}: {'; '.join(checks[folder])}" for _, folder in staged.folders]
    lines.append(f"{len(checks)} folders verified; next: tlm release push --dry-run.")
    return {"table": "\n".join(lines), "checks": checks}


def read_verified(output_dir: str) -> StagedRelease:
    """A staged release that was verified; UserError where anything was changed since."""
    staged = read_staged(output_dir)
    path = staged.output / VERIFIED_FILE
    if not path.is_file() or read_json(path).get("release") != file_hash(staged.output / RELEASE_FILE):
        raise UserError(f"The release in {staged.output} is not verified as it is: run `tlm release verify` first.")
    check_files(staged)
    return staged


def _open(staged: StagedRelease, repository: Repository) -> dict[str, list[str]]:
    with tempfile.TemporaryDirectory(prefix="tlm-verify-") as home:
        report = Path(home, "report.json")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN_VARIABLES)}
        environment |= {**VARIABLES, "HF_HOME": home}
        words = [sys.executable, "-P", str(DRIVER), repository.kind, str(report), *repository.tree]
        options: Json = {"cwd": staged.output, "env": environment, "stdin": subprocess.DEVNULL}
        done = subprocess.run(words, text=True, capture_output=True, check=False, **options)
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        outcome: Json = read_json(report) if report.is_file() else {"folder": repository.repo_id, "error": last}
    if "error" in outcome:
        raise UserError(f"{outcome['folder']} does not open as promised: {redact(outcome['error']).rstrip('.')}.")
    return dict(outcome["checks"])
