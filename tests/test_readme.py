"""The numbers in the README are those of the committed result files."""

import json
from pathlib import Path

from tlm_hf.study.quickstart_report import Row, report_text

ROOT = Path(__file__).resolve().parent.parent


def test_quickstart_output_is_that_of_the_results_file():
    results = json.loads((ROOT / "results" / "quickstart" / "results.json").read_text())
    readme = (ROOT / "README.md").read_text()
    section = readme.split("<!-- quickstart-output -->")[1].split("<!-- /quickstart-output -->")[0]
    assert report_text(results, "outputs/quickstart").strip() in section
    assert results["report"].strip() in section
    rows = {row["model"]: Row(**row) for row in results["rows"]}
    committee = rows["committee of 3 bert-1"]
    # The claims of the text below the table.
    assert rows["bert-1"].gap is not None
    assert rows["bert-1"].gap > 0
    assert committee.best_member is not None
    assert sum(committee.pretrained) / len(committee.pretrained) > committee.best_member


def test_real_text_table_is_that_of_the_results_files():
    readme = (ROOT / "README.md").read_text()
    section = readme.split("<!-- real-text -->")[1].split("<!-- /real-text -->")[0]
    folder = ROOT / "results" / "real_text"
    for file in sorted(folder.glob("finetune-*.json")) + sorted(folder.glob("committee-*.json")):
        assert f"{json.loads(file.read_text())['test']['accuracy']:.3f}" in section, file.name
