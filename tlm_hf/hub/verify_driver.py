"""Opens one staged repository, with its branches, as a stranger does: without `tlm_hf`.

`python -P verify_driver.py KIND REPORT FOLDER ...` runs where `owner/name` is a path.
The report has the `checks` passed, by folder, or one's `error`.
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


def run_snippets(folder: str) -> list[str]:
    """Execute every Python snippet of the card as it is; a branch opens by path, for which there are no revisions."""
    repo_id, _, branch = folder.partition("@")
    text = Path(folder, "README.md").read_text(encoding="utf-8")
    snippets = SNIPPET.findall(text.replace(f'"{repo_id}", revision="{branch}"', f'"{folder}"'))
    for place, code in enumerate(snippets):
        exec(compile(code, f"{folder}/README.md, snippet {place}", "exec"), {"__name__": "__main__"})
    return [f"{len(snippets)} snippets of the card"]


def open_model(folder: str, auto: str, trust: bool) -> tuple[str, Any]:
    """Module of the class that opens a model, with no weight missing, and its first output for `TEXT`."""
    import torch
    import transformers

    auto_class = getattr(transformers, auto)
    model, report = auto_class.from_pretrained(folder, trust_remote_code=trust, output_loading_info=True)
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    need(not missing, f"{auto} of {folder} lacks {missing[:3]}")
    batch = transformers.AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")
    with torch.no_grad():
        output = model.eval()(**batch)[0]
    need(bool(torch.isfinite(output).all()), f"{auto} of {folder} gives outputs that are not finite")
    return type(model).__module__, output


def check_refused(folder: str, auto: str, trust: bool) -> str:
    """A folder must be refused, not be opened as something else."""
    try:
        open_model(folder, auto, trust)
    except (ValueError, OSError):
        return f"refused as {auto}"
    raise CheckFailedError(f"{auto} opens {folder} {'with' if trust else 'without'} trust")


def check_model(folder: str, kind: str) -> list[str]:
    """A model: our classes with trust; without it stock classes of equal outputs, or refused as promised."""
    checks, stock = [], json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["model_type"] == "bert"
    for auto in ["AutoModel", "AutoModelForMaskedLM"] if kind == "encoder" else ["AutoModelForSequenceClassification"]:
        module, trusted = open_model(folder, auto, trust=True)
        need(module.startswith("transformers_modules"), f"{auto} with trust does not open the folder's own class")
        if stock:
            module, plain = open_model(folder, auto, trust=False)
            need(module.startswith("transformers.models.bert"), f"{auto} without trust does not open a stock BERT")
            difference = float((plain - trusted).abs().max())
            need(difference < CLOSE, f"{auto} with and without trust differ by {difference:.1e}")
            checks.append(f"{auto} with trust, and without it equal")
        else:
            check_refused(folder, auto, trust=False)
            checks.append(f"{auto} with trust, refused without it")
    return [*checks, check_refused(folder, "AutoModel", trust=True)] if kind == "committee" else checks


def check_space(folder: str) -> list[str]:
    """The app: imported, built, and asked one question for each task."""
    os.chdir(folder)
    sys.path.insert(0, os.getcwd())
    app, data, models = (importlib.import_module(name) for name in ("app", "demo_data", "demo_models"))
    demo = data.load_demo()
    need(not demo.trouble, f"the Space says: {' '.join(map(str, demo.trouble))}")
    app.build_app(demo)
    for name, task in demo.tasks.items():
        answer = models.classify(task.examples[0] if task.examples else TEXT, task.committee)
        total = float(sum(answer.probabilities))
        need(abs(total - 1) < CLOSE, f"the Space's probabilities for {name} sum to {total}")
    return ["the app is built", *(f"the app answers for {name}" for name in demo.tasks)]


def main() -> None:
    """Check the folders of a repository of a kind, and write the report."""
    sys.meta_path.insert(0, _Blocked())  # type: ignore[arg-type]
    kind, report, *folders = sys.argv[1:]
    others = {"space": check_space, "adapter": lambda _: []}  # of an adapter the snippet is all
    checks: dict[str, list[str]] = {}
    result: dict[str, Any] = {"checks": checks}
    for folder in folders:
        try:
            checks[folder] = run_snippets(folder)
            checks[folder] += others[kind](folder) if kind in others else check_model(folder, kind)
        except Exception as error:
            name = "" if isinstance(error, CheckFailedError) else f"{type(error).__name__}: "
            result = {"folder": folder, "error": name + " ".join(str(error).split())[:400]}
            break
    Path(report).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
