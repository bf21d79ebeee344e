"""`tlm release verify`: each staged repository is opened by a program without this package."""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path

from tqdm.auto import tqdm

from ..data.leakage import SUBSET_FILE
from ..errors import UserError
from ..runs.atomic_files import Json, file_hash, read_json, write_json
from ..runs.output_folder import RESULTS_FILE
from .manifest import RELEASE_FILE, Repository, StagedRelease, check_files, read_staged, tree_hash
from .model_folder import code_files
from .safety import check_folder, redact
from .space_folder import space_code

DRIVER = Path(__file__).with_name("verify_driver.py")
VERIFIED_FILE = "verified.json"
TIMEOUT_SECONDS = 1800
"""For one repository, on a machine that is busy with other work."""
HIDDEN_VARIABLES = ("HF_", "TLM_", "PYTHON", "HUGGING", "TRANSFORMERS_", "SPACE_")


def verify(output_dir: str) -> Json:
    """Check every repository of a staged release; only what passed can be pushed.

    Models are opened through the Auto classes and `pipeline()`, with and without trust as promised; data sets through
    `load_dataset`; the Space's app is built and asked a question; the snippets of every card are executed as they are.
    Each repository has its own process, in which `tlm_hf` cannot be imported, offline, with an empty cache.

    Args:
        output_dir: folder of the staged release.

    Returns:
        `table`, for people; `verified`: hashes of the folders by name; `checks`: what was passed, by folder.

    Raises:
        UserError: nothing staged, or the first repository that failed, with what failed.
    """
    staged = read_staged(output_dir)
    if find_spec("gradio") is None and any(repository.kind == "space" for repository in staged.repositories):
        raise UserError(
            'The Space cannot be opened without gradio: pip install "tlm-hf[demo]" (or gradio), then verify.'
        )
    for repository, folder in staged.folders:
        check_files(staged, repository, folder)
        path = staged.output / folder
        check_folder(path, space_code() if repository.kind == "space" else code_files(path), [staged.output])
    checks: dict[str, list[str]] = {}
    workers = min(os.cpu_count() or 1, 4)
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_open, staged, repository, workers) for repository in staged.repositories]
        try:
            for future in tqdm(as_completed(futures), total=len(futures), desc="Verifying", unit="repository"):
                checks |= future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    verified = {}
    for repository, folder in staged.folders:
        check_files(staged, repository, folder)  # what was opened is what was staged
        verified[folder] = repository.tree[folder]
    record = {"release": file_hash(staged.output / RELEASE_FILE), "verified": verified, "checks": checks}
    write_json(staged.output / VERIFIED_FILE, record)
    lines = [f"{folder}: {'; '.join(checks[folder])}" for _, folder in staged.folders]
    lines.append(f"{len(checks)} folders verified; next: tlm release push --dry-run.")
    return {"table": "\n".join(lines), "verified": verified, "checks": checks}


def check_verified(staged: StagedRelease) -> None:
    """Refuse a release that was not verified, or that was changed since.

    Raises:
        UserError: one sentence that names the folder.
    """
    try:
        record = read_json(staged.output / VERIFIED_FILE)
        verified, of_release = record["verified"], record["release"]
    except (UserError, KeyError) as error:
        raise UserError(f"The release in {staged.output} is not verified: run `tlm release verify` first.") from error
    if of_release != file_hash(staged.output / RELEASE_FILE):  # version, namespace, visibility, the Space's variables
        raise UserError(f"{staged.output / RELEASE_FILE} was changed after it was verified: stage and verify again.")
    for repository, folder in staged.folders:
        check_files(staged, repository, folder)
        if verified.get(folder) != tree_hash(staged.output / folder):
            raise UserError(f"{folder} was changed after it was verified: verify again.")


def _open(staged: StagedRelease, repository: Repository, workers: int) -> dict[str, list[str]]:
    """Run the driver on a repository and its branches; what they passed, by folder.

    Raises:
        UserError: the first check that failed.
    """
    with tempfile.TemporaryDirectory(prefix="tlm-verify-") as home:
        jobs = [_job(staged, repository, folder, Path(home)) for folder in repository.folders]
        order, report = Path(home, "jobs.json"), Path(home, "report.json")
        order.write_text(json.dumps(jobs), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN_VARIABLES)}
        environment = kept | {
            "HF_HOME": home,
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers)),
            "MPLBACKEND": "Agg",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(DRIVER), str(order), str(report)],
                cwd=home,
                env=environment,
                text=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            minutes = TIMEOUT_SECONDS // 60
            raise UserError(f"{repository.repo_id} took more than {minutes} minutes to open: verify again.") from error
        if report.is_file():
            found = read_json(report)
        else:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            found = {"folder": repository.folder, "error": f"its process ended with code {done.returncode} ({last})"}
    if "error" in found:
        reason = redact(found["error"]).rstrip(".")
        raise UserError(f"{found['folder']} does not open as promised: {reason}.")
    checks: dict[str, list[str]] = found["checks"]
    return checks


def _job(staged: StagedRelease, repository: Repository, folder: str, home: Path) -> Json:
    """What the driver is told of one folder: where to work, and what to expect."""
    output = staged.output.resolve()
    place = output
    if folder != repository.folder:
        # Where a path is opened, transformers ignores the `revision` of a card's snippets, which would open main. So
        # the branch gets a folder of links in which `owner/name` is the branch, and all else as in the staged release.
        place = home / Path(folder).name
        owner, name = repository.repo_id.split("/")
        (place / owner).mkdir(parents=True)
        for path in (output / owner).iterdir():
            (place / owner / path.name).symlink_to(output / folder if path.name == name else path)
    job: Json = {"kind": repository.kind, "repo_id": repository.repo_id, "folder": folder, "place": str(place)}
    if repository.kind == "data":
        configs = read_json(output / folder / SUBSET_FILE)["configs"]
        job["rows"] = {
            config: {split: facts["rows"] for split, facts in splits.items()} for config, splits in configs.items()
        }
    elif repository.kind != "space":
        job["labels"] = read_json(output / folder / RESULTS_FILE).get("labels")
    return job
