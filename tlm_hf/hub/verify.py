"""`tlm release verify`: each staged repository is opened by a program without this package, and its card is checked."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import DatasetCard, ModelCard, RepoCard
from tqdm.auto import tqdm

from ..data.leakage import SUBSET_FILE
from ..errors import UserError
from ..runs.atomic_files import file_hash, write_json
from ..runs.output_folder import RESULTS_FILE
from .hub_names import known
from .manifest import MANIFEST_FILE, tree_hash
from .safety import check_folder, redact
from .space_folder import space_code
from .stage import RELEASE_FILE, VERIFIED_FILE, check_files, read_staged, staged_folders

DRIVER = Path(__file__).with_name("verify_driver.py")
TIMEOUT_SECONDS = 600
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def verify(output_dir: str) -> dict[str, Any]:
    """Check every repository of a staged release; only what passed can be pushed.

    Models are opened through the Auto classes and `pipeline()`, with and without trust as promised; data sets through
    `load_dataset`; the Space's app is built and asked a question; the snippets of every card are executed as they
    stand. All that in fresh processes in which `tlm_hf` cannot be imported, offline, with an empty cache.

    Args:
        output_dir: folder of the staged release.

    Returns:
        `table`, for people; `verified`: hashes of the folders by name; `checks`: what was passed, by repository.

    Raises:
        UserError: nothing staged, or the first repository that failed, with what failed.
    """
    output, release = read_staged(output_dir)
    if find_spec("gradio") is None and any(entry["kind"] == "space" for entry in release["repositories"]):
        raise UserError(
            'The Space cannot be opened without gradio: pip install "tlm-hf[demo]" (or gradio), then verify.'
        )
    jobs = staged_folders(release)
    for entry, folder in jobs:
        check_files(output / folder, entry["tree"][folder])
        check_folder(output / folder, _code_of(entry, output / folder), [output])
        check_card(output / folder, entry["repo_type"], {each["repo_id"] for each in release["repositories"]})
    with tempfile.TemporaryDirectory(prefix="tlm-views-") as views:
        orders = [_job(output, entry, folder, Path(views)) for entry, folder in jobs]
        found = dict(tqdm(_open_all(orders), total=len(orders), desc="Verifying", unit="folder"))
    checks = {folder: found[folder] for _, folder in jobs}
    for entry, folder in jobs:
        check_files(output / folder, entry["tree"][folder])  # what was opened is what was staged
    verified = {folder: entry["tree"][folder] for entry, folder in jobs}
    write_json(
        output / VERIFIED_FILE, {"release": file_hash(output / RELEASE_FILE), "verified": verified, "checks": checks}
    )
    lines = [f"{folder}: {'; '.join(passed)}" for folder, passed in checks.items()]
    lines.append(f"{len(checks)} folders verified; next: tlm release push --dry-run.")
    return {"table": "\n".join(lines), "verified": verified, "checks": checks}


def check_verified(output: Path, release: dict[str, Any]) -> None:
    """Refuse a release that was not verified, or that was changed since.

    Raises:
        UserError: one sentence that names the folder.
    """
    try:
        found = json.loads((output / VERIFIED_FILE).read_text(encoding="utf-8"))
        verified, of_release = dict(found["verified"]), found["release"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"The release in {output} is not verified: run `tlm release verify` first.") from error
    if of_release != file_hash(output / RELEASE_FILE):  # version, namespace, visibility, variables of the Space
        raise UserError(f"{output / RELEASE_FILE} was changed after it was verified: stage and verify again.")
    for entry, folder in staged_folders(release):
        if verified.get(folder) != tree_hash(output / folder):
            check_files(output / folder, entry["tree"][folder])  # names the file where it can
            raise UserError(f"{folder} was changed after it was verified: verify again.")


def _code_of(entry: dict[str, Any], folder: Path) -> dict[str, str]:
    if entry["kind"] == "space":
        return space_code()
    from .model_folder import code_files

    return code_files(folder)


def _view(place: Path, output: Path, repo_id: str, folder: str) -> Path:
    """A folder in which `owner/name` is a branch, and all else is as in the staged release.

    Where a path is opened, transformers ignores the `revision` of a card's snippets, which would open main.
    """
    owner = place / repo_id.split("/")[0]
    owner.mkdir(parents=True)
    for path in (output / owner.name).iterdir():
        (owner / path.name).symlink_to(((output / folder) if path.name == repo_id.split("/")[1] else path).resolve())
    return place


def _job(output: Path, entry: dict[str, Any], folder: str, views: Path) -> dict[str, Any]:
    """What the driver is told of one folder."""
    place = output.resolve()
    if folder != entry["folder"]:
        place = _view(views / folder, output, entry["repo_id"], folder)
    job: dict[str, Any] = {
        "kind": entry["kind"], "repo_id": entry["repo_id"], "folder": folder, "place": str(place)
    }  # fmt: skip
    if entry["kind"] == "data":
        configs = json.loads((output / folder / SUBSET_FILE).read_text(encoding="utf-8"))["configs"]
        job["configs"] = {
            config: {split: facts["rows"] for split, facts in splits.items()} for config, splits in configs.items()
        }
    elif entry["kind"] != "space":
        job["labels"] = json.loads((output / folder / RESULTS_FILE).read_text(encoding="utf-8")).get("labels")
    return job


def _open_all(jobs: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Run the driver; yields the name of each folder and what it passed, as they are done.

    Raises:
        UserError: the first that failed.
    """
    workers = max(1, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 4))
    for group in [jobs] if sys.platform == "linux" else [[job] for job in jobs]:
        with tempfile.TemporaryDirectory(prefix="tlm-verify-") as home:
            for report in _reports(group, workers, home):
                if "error" in report:
                    needs_gradio = "gradio" in report["error"]
                    hint = ' (the Space needs the extra "demo": pip install "tlm-hf[demo]")' if needs_gradio else ""
                    raise UserError(
                        f"{report['folder']} does not open as promised: {redact(report['error']).rstrip('.')}{hint}."
                    )
                yield report["folder"], report["checks"]


def _reports(jobs: list[dict[str, Any]], workers: int, home: str) -> Iterator[dict[str, Any]]:
    """The driver's lines; one with an error for the first job that it left out, where it ended early."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "TLM_", "PYTHON", "HUGGING", "TRANSFORMERS_", "SPACE_"))
    }
    environment |= {
        "HF_HOME": home,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers)),
        "MPLBACKEND": "Agg",
        "PYTHONDONTWRITEBYTECODE": "1",  # nothing is left in the folders
    }
    left = {job["folder"] for job in jobs}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            [sys.executable, "-P", str(DRIVER)], cwd=home, env=environment, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=said, start_new_session=True,
        ) as driver,
    ):  # fmt: skip
        assert driver.stdin is not None
        assert driver.stdout is not None
        # The driver stops what takes too long; this is for the driver itself.
        guard = threading.Timer(TIMEOUT_SECONDS * len(jobs) + 60, os.killpg, (driver.pid, signal.SIGKILL))
        guard.daemon = True
        guard.start()
        try:
            json.dump({"jobs": jobs, "workers": workers, "limit": TIMEOUT_SECONDS}, driver.stdin)
            driver.stdin.close()
            for line in driver.stdout:
                try:
                    report = dict(json.loads(line))
                except (ValueError, TypeError):
                    continue  # what a snippet printed
                if report.get("folder") in left:
                    left.remove(report["folder"])
                    yield report
            code = driver.wait()
        finally:
            guard.cancel()
            if driver.poll() is None:  # it was left at the first error, or interrupted: the jobs are its children
                os.killpg(driver.pid, signal.SIGKILL)
        if left:
            said.seek(0)
            last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
            yield {"folder": min(left), "error": f"the process ended with code {code} ({last})"}


def check_card(folder: Path, repo_type: str, own: set[str]) -> None:
    """Hold a card's front matter against what the Hub knows, against its results, and against the release.

    Args:
        folder: the staged folder.
        repo_type: `model`, `dataset` or `space`.
        own: repositories of the release.

    Raises:
        UserError: one sentence that names the field.
    """

    def need(condition: object, sentence: str) -> None:
        if not condition:
            raise UserError(f"The card of {folder.name}: {sentence}.")

    card_class = {"model": ModelCard, "dataset": DatasetCard}.get(repo_type, RepoCard)
    try:
        content = (folder / "README.md").read_text(encoding="utf-8")
        card = card_class(content, ignore_metadata_errors=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The card of {folder.name} cannot be read ({str(error).splitlines()[0]}): stage again."
        ) from error
    data = card.data.to_dict()
    again = card_class(f"---\n{card.data.to_yaml()}\n---\n{card.text}").data.to_dict()
    need(again == data, "its front matter does not come back as it was written")
    licences = data.get("license")
    for licence in licences if isinstance(licences, list) else [licences]:
        need(licence in known("licence"), f"license {licence!r} is none that the Hub knows")
    if licences == "other":
        need(data.get("license_name"), "license is other, and license_name is missing")
    need(data.get("library_name", "transformers") in known("library"), f"library_name {data.get('library_name')!r}")
    for task in [data.get("pipeline_tag"), *(data.get("task_categories") or [])]:
        need(task is None or task in known("task"), f"the task {task!r} is none that the Hub knows")
    languages = data.get("language") or []
    for language in languages if isinstance(languages, list) else [languages]:
        need(language in known("language"), f"language {language!r} is none that the Hub knows")
    for field in ("base_model", "datasets", "models"):
        values = data.get(field) or []
        for value in values if isinstance(values, list) else [values]:
            need(HUB_ID.fullmatch(str(value)), f"{field} names {value!r}, which is no repository")
            need(
                value in own or value.split("/")[0] != folder.parent.name,
                f"{field} names {value!r}, which is not released",
            )
    for image in IMAGE.findall(card.text):
        need("://" in image or (folder / image).is_file(), f"the picture {image} is missing")
    need("{{" not in content and "{%" not in content, "a placeholder of its template was not filled")
    if repo_type == "model":
        _check_results(folder, data, need)
    if repo_type == "space":
        for field in ("title", "sdk", "sdk_version", "python_version", "app_file"):
            need(data.get(field), f"{field} is missing")
        need((folder / data["app_file"]).is_file(), f"app_file {data['app_file']} is missing")


def _check_results(folder: Path, data: dict[str, Any], need: Any) -> None:
    """The numbers of the model index are those of the results file."""
    results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    for model in data.get("model-index") or []:
        for result in model["results"]:
            for metric in result["metrics"]:
                key = "macro_f1" if metric["type"] == "f1" else metric["type"]
                there = results["test"].get(key)
                need(
                    there is not None and round(there, 4) == metric["value"], f"its {key} is not that of {RESULTS_FILE}"
                )
    need((folder / MANIFEST_FILE).is_file(), f"{MANIFEST_FILE} is missing")
