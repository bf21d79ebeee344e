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


def test_speed_table_is_that_of_the_results_files():
    readme = (ROOT / "README.md").read_text()
    section = readme.split("<!-- speed -->")[1].split("<!-- /speed -->")[0]
    files = sorted((ROOT / "results" / "benchmark").glob("*.json"))
    assert len(files) == 4
    for file in files:
        results = json.loads(file.read_text())
        seconds, memory = results["median_seconds"], results["peak_memory_mib"]
        best = "ours_best" if "ours_best" in seconds else "ours_best_same_dropout"
        assert results["ratio_best"] == seconds["stock"] / seconds[best]
        rate = results["settings"]["mlm_probability"]
        row = [f"{results['recipe']}, {results['benchmark']}" + (f", mask rate {rate}" if rate != 0.15 else "")]
        row += [f"{seconds[name]:.3g} s" for name in ("stock", "ours_same_precision", best)]
        row += [f"{results[name]:.1f}" for name in ("ratio_same_precision", "ratio_best", "ratio_best_same_dropout")]
        row += [f"{results['ratio_same_precision_and_allocator']:.1f}"]
        row += [f"{memory[name]:,.0f}" for name in ("stock", best)]
        assert f"| {' | '.join(row)} |" in section, row


def test_overlap_table_is_that_of_the_results_file():
    readme = (ROOT / "README.md").read_text()
    section = readme.split("<!-- overlap -->")[1].split("<!-- /overlap -->")[0]
    table = json.loads((ROOT / "results" / "data" / "overlap.json").read_text())["table"]
    assert set(table) == {"ag_news", "dbpedia_14", "fewrel"}
    for task, subsets in table.items():
        found = (subsets[kind]["test"] for kind in ("high", "random", "low"))
        cells = [f"{values['jensen_shannon_bits']:.3f}, {values['occurrence_coverage']:.3f}" for values in found]
        assert f"| `{task}` | {' | '.join(cells)} |" in section


def test_training_table_is_that_of_the_results_files():
    readme = (ROOT / "README.md").read_text()
    section = readme.split("<!-- training -->")[1].split("<!-- /training -->")[0]
    folder = ROOT / "results" / "training"
    files = sorted(folder.glob("benchmark-*.json"))
    assert files
    for file in files:
        found = json.loads(file.read_text())
        row = [f"{found['recipe']}, `{found['schedule']}`, {found['steps']:,} steps"]
        row += [f"{found['tokens_per_second']:,.0f}", f"{found['step_seconds']:.3f} s"]
        row += [f"{found['stock_step_seconds']:.2f} s", f"{found['stock_step_seconds'] / found['step_seconds']:.1f}"]
        row += [f"{found['share_outside']:.1%}"]
        row += [f"{found['product_rate'] / max(found['peak_rates_before_and_after']):.0%}"]
        row += [f"{found['hours']:.1f}", f"{found['stock_hours']:.0f}"]
        assert f"| {' | '.join(row)} |" in section, row
    for name, trial in (
        ("paper-fifth", "tlm"),
        ("paper-fifth", "mask 0.2"),
        ("paper-tenth", "tlm"),
        ("paper-tenth", "lr 5e-4"),
        ("paper-eighth", "lr 5e-4"),
        ("laptop-float32", "tlm"),
    ):
        trials = {
            row["trial"]: row for row in json.loads((folder / f"search-bert-1-{name}.json").read_text())["trials"]
        }
        losses = (trials[name]["held_out_loss"] for name in ("paper", "paper, repaired", trial))
        assert " | ".join(f"{loss:.3f}" for loss in losses) in section, name
        share = trials[trial]["share_to_match"]
        assert (f"{100 * share:g}%" if share else "not reached") in section
