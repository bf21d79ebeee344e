"""Opens one staged repository, with its branches, as a stranger does: a program that cannot import `tlm_hf`.

Started by `verify` as `python -P verify_driver.py JOBS.json REPORT.json`. Each job is done in the folder of the staged
release, where `owner/name` is a path as well as a name on the Hub; for a branch in a copy of it made of links, where it
leads to the branch. The report has the `checks` that were passed, by folder, or the `error` of one.
"""

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = "The small boat crosses the old river."
CLOSE = 1e-4
CLASSIFIER = "AutoModelForSequenceClassification"
Json = dict[str, Any]


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
    """Execute every Python snippet of the card as it is."""
    snippets = SNIPPET.findall((Path(repo_id) / "README.md").read_text(encoding="utf-8"))
    for place, code in enumerate(snippets):
        exec(compile(code, f"{repo_id}/README.md, snippet {place}", "exec"), {"__name__": "__main__"})
    return [f"{len(snippets)} snippets of the card"]


def open_model(repo_id: str, auto: str, trust: bool) -> Any:
    """A model in evaluation mode, with no weight missing."""
    import transformers

    auto_class = getattr(transformers, auto)
    model, report = auto_class.from_pretrained(repo_id, trust_remote_code=trust, output_loading_info=True)
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    need(not missing, f"{auto} of {repo_id} lacks {missing[:3]}")
    return model.eval()


def outputs(model: Any, batch: Any) -> Any:
    """The first output of a model, whatever it is."""
    import torch

    with torch.no_grad():
        output = model(**batch)[0]
    need(bool(torch.isfinite(output).all()), f"{type(model).__name__} gives outputs that are not finite")
    return output


def check_labels(model: Any, job: Json) -> None:
    """The labels of a classifier are those of its results."""
    names = [model.config.id2label[place] for place in range(model.config.num_labels)]
    need(names == job["labels"], f"the labels are {names} and its results say {job['labels']}")


def check_refused(repo_id: str, auto: str) -> None:
    """Without trust a folder that needs its code must be refused, not be opened as something else."""
    import transformers

    try:
        getattr(transformers, auto).from_pretrained(repo_id, trust_remote_code=False)
    except (ValueError, OSError):
        return
    raise CheckFailedError(f"{auto} opens {repo_id} without trust")


def check_model(job: Json) -> list[str]:
    """An encoder or classifier: stock classes without trust, our classes with it, equal outputs."""
    import transformers

    repo_id, checks = job["repo_id"], []
    batch = transformers.AutoTokenizer.from_pretrained(repo_id)(TEXT, return_tensors="pt")
    stock = json.loads((Path(repo_id) / "config.json").read_text(encoding="utf-8"))["model_type"] == "bert"
    for auto in ["AutoModel", "AutoModelForMaskedLM"] if job["kind"] == "encoder" else [CLASSIFIER]:
        trusted = open_model(repo_id, auto, trust=True)
        module = type(trusted).__module__
        need(module.startswith("transformers_modules"), f"{auto} with trust does not open the folder's own class")
        checks.append(f"{auto} with trust")
        if stock:
            plain = open_model(repo_id, auto, trust=False)
            module = type(plain).__module__
            need(module.startswith("transformers.models.bert"), f"{auto} without trust does not open a stock BERT")
            difference = float((outputs(plain, batch) - outputs(trusted, batch)).abs().max())
            need(difference < CLOSE, f"{auto} with and without trust differ by {difference:.1e}")
            checks.append(f"{auto} without trust, equal")
        else:
            outputs(trusted, batch)
            check_refused(repo_id, auto)
            checks.append(f"{auto} without trust is refused")
        if auto == CLASSIFIER:
            check_labels(trusted, job)
    return checks


def check_committee(job: Json) -> list[str]:
    """A committee: classifies with trust; AutoModel refuses it in a sentence."""
    import transformers

    repo_id = job["repo_id"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo_id)
    model = open_model(repo_id, CLASSIFIER, trust=True)
    logits = outputs(model, tokenizer([TEXT, TEXT[:14]], padding=True, return_tensors="pt"))
    need(tuple(logits.shape) == (2, len(job["labels"])), f"{repo_id} gives logits of shape {tuple(logits.shape)}")
    check_labels(model, job)
    check_refused(repo_id, CLASSIFIER)
    try:
        transformers.AutoModel.from_pretrained(repo_id, trust_remote_code=True)
    except Exception as error:
        need("committee" in str(error), f"AutoModel does not say that {repo_id} is a committee")
    else:
        raise CheckFailedError(f"AutoModel opens the committee {repo_id}")
    return [f"{CLASSIFIER} with trust", "without trust and as AutoModel it is refused"]


def check_dataset(job: Json) -> list[str]:
    """Every configuration: splits, rows and columns as the facts say."""
    import datasets

    checks = []
    for config, expected in job["rows"].items():
        loaded = datasets.load_dataset(job["repo_id"], config)
        rows = {split: len(loaded[split]) for split in loaded}
        need(rows == expected, f"{job['repo_id']}, {config} has the rows {rows} and its facts say {expected}")
        need({"text", "id"} <= set(loaded["train"].column_names), f"{job['repo_id']}, {config} lacks text or id")
        checks.append(f"load_dataset {config}: {sum(rows.values())} rows")
    return checks


def check_space(job: Json) -> list[str]:
    """The app: imported, built, and asked one question for each task."""
    os.chdir(job["repo_id"])
    sys.path.insert(0, os.getcwd())
    app, data, models = (importlib.import_module(name) for name in ("app", "demo_data", "demo_models"))
    demo = data.load_demo()
    need(not demo.trouble, f"the Space says: {' '.join(map(str, demo.trouble))}")
    app.build_app(demo)
    for name, task in demo.tasks.items():
        answer = models.classify(task.examples[0] if task.examples else TEXT, task.committee, task.deep)
        total = float(sum(answer.probabilities))
        need(abs(total - 1) < CLOSE, f"the Space's probabilities for {name} sum to {total}")
    return ["the app is built", *(f"the app answers for {name}" for name in demo.tasks)]


CHECKS = {
    "encoder": check_model,
    "classifier": check_model,
    "committee": check_committee,
    "data": check_dataset,
    "space": check_space,
}
"""By kind; of an adapter the snippet is the check."""


def main() -> None:
    """Do the jobs of the first argument, a JSON list; write the report to the second."""
    sys.meta_path.insert(0, _Blocked())  # type: ignore[arg-type]
    order, report = map(Path, sys.argv[1:])
    checks: dict[str, list[str]] = {}
    result: Json = {"checks": checks}
    for job in json.loads(order.read_text(encoding="utf-8")):
        os.chdir(job["place"])
        try:
            passed = run_snippets(job["repo_id"]) if job["kind"] != "space" else []
            checks[job["folder"]] = passed + (CHECKS[job["kind"]](job) if job["kind"] in CHECKS else [])
        except Exception as error:
            kind = "" if isinstance(error, CheckFailedError) else f"{type(error).__name__}: "
            result = {"folder": job["folder"], "error": kind + " ".join(str(error).split())[:400]}
            break
    report.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
