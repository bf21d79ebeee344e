"""Opens one staged repository as a stranger does: a program of its own, which cannot import `tlm_hf`.

Started by `release_verify` as `python -P verify_driver.py`. Each job is done in the folder of the staged release, where
`owner/name` is a path as well as a name on the Hub; for a branch in a view of it, where it leads to the branch.
Prints a line of JSON a job: `checks` that were passed, or `error`.
"""

import importlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = "The small boat crosses the old river."
CLOSE = 1e-4


class _Blocked:
    """Import hook that hides the package, so that nothing here depends on it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] == "tlm_hf":
            raise ModuleNotFoundError(f"No module named {name!r}: a released repository must open without it")


class CheckFailedError(Exception):
    """A promise that does not hold; the message is a sentence."""


def need(condition: object, sentence: str) -> None:
    """Raise unless the condition holds."""
    if not condition:
        raise CheckFailedError(sentence)


def run_snippets(repo_id: str) -> list[str]:
    """Execute every Python snippet of the card as it stands."""
    found = SNIPPET.findall((Path(repo_id) / "README.md").read_text(encoding="utf-8"))
    for place, code in enumerate(found):
        exec(compile(code, f"{repo_id}/README.md, snippet {place}", "exec"), {"__name__": "__main__"})
    return [f"{len(found)} snippets of the card"]


def open_model(repo_id: str, auto: str, trust: bool) -> Any:
    """A model in evaluation mode, with no weight missing."""
    import transformers

    model, report = getattr(transformers, auto).from_pretrained(
        repo_id, trust_remote_code=trust, output_loading_info=True
    )
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    need(not missing, f"{auto} of {repo_id} lacks {missing[:3]}")
    return model.eval()


def outputs(model: Any, batch: Any) -> Any:
    """The first output of a model, whatever it is."""
    import torch

    with torch.no_grad():
        found = model(**batch)[0]
    need(bool(torch.isfinite(found).all()), f"{type(model).__name__} gives outputs that are not finite")
    return found


def check_model(job: dict[str, Any]) -> list[str]:
    """An encoder or classifier: stock classes without trust, our classes with it, equal outputs."""
    import transformers

    repo_id, checks = job["repo_id"], []
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo_id)
    batch = tokenizer(TEXT, return_tensors="pt")
    stock = json.loads((Path(repo_id) / "config.json").read_text(encoding="utf-8"))["model_type"] == "bert"
    heads = (
        ["AutoModel", "AutoModelForMaskedLM"] if job["kind"] == "encoder" else ["AutoModelForSequenceClassification"]
    )
    for auto in heads:
        trusted = open_model(repo_id, auto, trust=True)
        need(
            type(trusted).__module__.startswith("transformers_modules"), f"{auto} with trust is not the folder's class"
        )
        expected = outputs(trusted, batch)
        checks.append(f"{auto} with trust")
        if stock:
            plain = open_model(repo_id, auto, trust=False)
            need(
                type(plain).__module__.startswith("transformers.models.bert"), f"{auto} without trust is no stock BERT"
            )
            difference = float((outputs(plain, batch) - expected).abs().max())
            need(difference < CLOSE, f"{auto} with and without trust differ by {difference:.1e}")
            checks.append(f"{auto} without trust, equal")
        else:
            refuses_without_trust(repo_id, auto)
            checks.append(f"{auto} without trust is refused")
        if auto == "AutoModelForSequenceClassification":
            names = [trusted.config.id2label[place] for place in range(trusted.config.num_labels)]
            need(names == job["labels"], f"the labels of {repo_id} are {names} and its results say {job['labels']}")
    return checks


def refuses_without_trust(repo_id: str, auto: str) -> None:
    """Without trust a folder with code of its own must be refused, not be opened as something else."""
    import transformers

    try:
        getattr(transformers, auto).from_pretrained(repo_id, trust_remote_code=False)
    except (ValueError, OSError):
        return
    raise CheckFailedError(f"{auto} opens {repo_id} without trust")


def check_committee(job: dict[str, Any]) -> list[str]:
    """A committee: classifies with trust; AutoModel refuses it in a sentence."""
    import transformers

    repo_id = job["repo_id"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo_id)
    model = open_model(repo_id, "AutoModelForSequenceClassification", trust=True)
    logits = outputs(model, tokenizer([TEXT, TEXT[:14]], padding=True, return_tensors="pt"))
    need(tuple(logits.shape) == (2, len(job["labels"])), f"{repo_id} gives logits of shape {tuple(logits.shape)}")
    names = [model.config.id2label[place] for place in range(model.config.num_labels)]
    need(names == job["labels"], f"the labels of {repo_id} are {names} and its results say {job['labels']}")
    refuses_without_trust(repo_id, "AutoModelForSequenceClassification")
    try:
        transformers.AutoModel.from_pretrained(repo_id, trust_remote_code=True)
    except Exception as error:
        need("committee" in str(error), f"AutoModel does not say that {repo_id} is a committee")
    else:
        raise CheckFailedError(f"AutoModel opens the committee {repo_id}")
    return ["AutoModelForSequenceClassification with trust", "without trust and as AutoModel it is refused"]


def check_dataset(job: dict[str, Any]) -> list[str]:
    """Every configuration: splits, rows and columns as the facts say."""
    import datasets

    checks = []
    for config, splits in job["configs"].items():
        found = datasets.load_dataset(job["repo_id"], config)
        rows = {split: len(found[split]) for split in found}
        need(rows == splits, f"{job['repo_id']}, {config} has the rows {rows} and its facts say {splits}")
        need({"text", "id"} <= set(found["train"].column_names), f"{job['repo_id']}, {config} lacks text or id")
        checks.append(f"load_dataset {config}: {sum(rows.values())} rows")
    return checks


def check_space(job: dict[str, Any]) -> list[str]:
    """The app: imported, built, and asked one question for each task."""
    os.chdir(job["repo_id"])
    sys.path.insert(0, os.getcwd())
    app, data, models = (importlib.import_module(name) for name in ("app", "demo_data", "demo_models"))
    demo = data.load_demo()
    need(not demo.trouble, f"the Space says: {' '.join(map(str, demo.trouble))}")
    app.build_app(demo)
    asked = []
    for name, task in demo.tasks.items():
        answer = models.classify(task.examples[0] if task.examples else TEXT, task.committee, task.deep)
        total = float(sum(answer.probabilities))
        need(abs(total - 1) < CLOSE, f"the Space's probabilities for {name} sum to {total}")
        asked.append(f"the app answers for {name}")
    return ["the app is built", *asked]


CHECKS = {"encoder": check_model, "classifier": check_model, "committee": check_committee, "data": check_dataset,
          "space": check_space}  # fmt: skip


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; what came of it."""
    try:
        checks = run_snippets(job["repo_id"]) if job["kind"] != "space" else []
        if job["kind"] in CHECKS:
            checks += CHECKS[job["kind"]](job)
        return {"checks": checks}
    except CheckFailedError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}


def in_a_child(job: dict[str, Any], scratch: Path) -> None:
    """What the forked process of a job does; it does not return."""
    import datasets
    import transformers

    code = 1
    try:
        log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(job["place"])
        # Both were read from the environment at their import, which the processes share; their caches they must not.
        transformers.dynamic_module_utils.HF_MODULES_CACHE = str(scratch / "modules")
        datasets.config.HF_DATASETS_CACHE = scratch / "datasets"
        (scratch / "report").write_text(json.dumps(work(job)), encoding="utf-8")
        code = 0
    finally:
        os._exit(code)  # nothing of the parent's is to be tidied up here


def report_of(code: int, scratch: Path) -> dict[str, Any]:
    """What a forked process left."""
    try:
        found: dict[str, Any] = json.loads((scratch / "report").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        log = (scratch / "log").read_text(encoding="utf-8", errors="replace") if (scratch / "log").is_file() else ""
        last = (log.strip().splitlines() or ["it said nothing"])[-1]
        return {"error": f"the process ended with code {code} ({last})"}
    return found


def fork_all(jobs: list[dict[str, Any]], workers: int, limit: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Do every job in a process of its own, forked after the imports that all of them need: these take most of a job.

    Args:
        jobs: see `main`.
        workers: how many at once.
        limit: seconds that one may take.

    Yields:
        `folder` and report of each, as they end.
    """
    import datasets  # noqa: F401
    import transformers
    import transformers.models.bert.modeling_bert
    import transformers.pipelines  # noqa: F401

    waiting = list(enumerate(jobs))
    running: dict[int, tuple[dict[str, Any], Path, float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            place, job = waiting.pop(0)
            scratch = Path(os.environ["HF_HOME"]) / f"job-{place}"
            scratch.mkdir()
            process = os.fork()
            if process == 0:
                in_a_child(job, scratch)
            running[process] = (job, scratch, time.monotonic())
        time.sleep(0.05)
        for process, (job, scratch, start) in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                del running[process]
                yield job["folder"], report_of(os.waitstatus_to_exitcode(status), scratch)
            elif time.monotonic() - start > limit:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                del running[process]
                yield job["folder"], {"error": f"it took more than {limit:.0f} seconds"}


def main() -> None:
    """Read jobs as JSON from stdin and print a line of JSON for each.

    A job has `kind`, `repo_id`, `folder` (its name in the answer), `place` (folder to work in), and what its check
    needs. Where processes cannot be forked safely (all but Linux) one job at a time is given.
    """
    sys.meta_path.insert(0, _Blocked())  # type: ignore[arg-type]
    order = json.load(sys.stdin)
    jobs = order["jobs"]
    if sys.platform != "linux":
        os.chdir(jobs[0]["place"])
        found: Iterable[tuple[str, dict[str, Any]]] = [(jobs[0]["folder"], work(jobs[0]))]
    else:
        found = fork_all(jobs, order["workers"], order["limit"])
    for folder, report in found:
        sys.stdout.write("\n" + json.dumps({"folder": folder, **report}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
