"""Opens one staged repository, with its branches, as a stranger does: without `tlm_hf`.

`python -P verify_driver.py KIND REPORT FOLDER ...` runs where `owner/name` is a path; REPORT gets `checks` or `error`.
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


def run_snippets(folder: str) -> list[str]:
    """Execute every Python snippet of the card as it is; a branch opens by path, for which there are no revisions."""
    repo_id, _, branch = folder.partition("@")
    text = Path(folder, "README.md").read_text(encoding="utf-8")
    snippets = SNIPPET.findall(text.replace(f'"{repo_id}", revision="{branch}"', f'"{folder}"'))
    for place, code in enumerate(snippets):
        exec(compile(code, f"{folder}/README.md, snippet {place}", "exec"), {"__name__": "__main__"})
    return [f"{len(snippets)} snippets of the card"]


def check_model(folder: str, kind: str) -> list[str]:
    """The folder's own class opens with all its weights; where stock BERT does too, their outputs are equal."""
    import torch
    import transformers

    auto = transformers.AutoModelForMaskedLM if kind == "encoder" else transformers.AutoModelForSequenceClassification
    is_stock = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["model_type"] == "bert"
    batch, outputs = transformers.AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt"), []
    for trust in (True, False)[: 1 + is_stock]:
        model, report = auto.from_pretrained(folder, trust_remote_code=trust, output_loading_info=True)
        assert not report["missing_keys"], f"{auto.__name__} of {folder} lacks {sorted(report['missing_keys'])[:3]}"
        with torch.no_grad():
            outputs.append(model.eval()(**batch)[0])
    difference = float((outputs[0] - outputs[-1]).abs().max())
    assert difference < CLOSE, f"{auto.__name__} with and without trust differ by {difference:.1e}"
    return [f"{auto.__name__} with trust{', and without it equal' if is_stock else ''}"]


def check_space(folder: str) -> list[str]:
    """The app: imported, built, and asked one question for each task."""
    os.chdir(folder)
    sys.path.insert(0, os.getcwd())
    app, data, models = (importlib.import_module(name) for name in ("app", "demo_data", "demo_models"))
    demo = data.load_demo()
    assert not demo.trouble, f"the Space says: {' '.join(map(str, demo.trouble))}"
    app.build_app(demo)
    for name, task in demo.tasks.items():
        answer = models.classify(task.examples[0] if task.examples else TEXT, task.committee)
        total = float(sum(answer.probabilities))
        assert abs(total - 1) < CLOSE, f"the Space's probabilities for {name} sum to {total}"
    return ["the app is built", *(f"the app answers for {name}" for name in demo.tasks)]


def main() -> None:
    """Check the folders of a repository of a kind, and write the report."""
    sys.modules["tlm_hf"] = None  # type: ignore[assignment]  # so importing it fails: nothing here depends on it
    kind, report, *folders = sys.argv[1:]
    checks: dict[str, list[str]] = {}
    result: dict[str, Any] = {"checks": checks}
    for folder in folders:
        try:
            checks[folder] = run_snippets(folder)
            if kind != "adapter":  # of which the snippet is all
                checks[folder] += check_space(folder) if kind == "space" else check_model(folder, kind)
        except Exception as error:
            name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            result = {"folder": folder, "error": name + " ".join(str(error).split())[:400]}
            break
    Path(report).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
