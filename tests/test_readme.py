"""The numbers in the README are those of the committed result files."""

import json
import re
from pathlib import Path

from tlm_hf.study.quickstart_report import TableRow, report_text
from tlm_hf.study.report import write_report
from tlm_hf.study.study import StudyArguments

ROOT = Path(__file__).resolve().parent.parent


def section_of(name):
    """The part of the README between two marks."""
    return (ROOT / "README.md").read_text().split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]


def test_quickstart_output_is_that_of_the_results_file():
    results = json.loads((ROOT / "results" / "quickstart" / "results.json").read_text())
    section = section_of("quickstart-output")
    assert report_text(results, "outputs/quickstart").strip() in section
    assert results["report"].strip() in section
    rows = {row["model"]: TableRow(**row) for row in results["rows"]}
    committee = rows["committee of 3 bert-1"]
    # The claims of the text below the table.
    assert rows["bert-1"].gap is not None
    assert rows["bert-1"].gap > 0
    assert committee.best_member is not None
    assert sum(committee.pretrained) / len(committee.pretrained) > committee.best_member


def test_real_text_table_is_that_of_the_results_files():
    section = section_of("real-text")
    folder = ROOT / "results" / "real_text"
    for file in sorted(folder.glob("finetune-*.json")) + sorted(folder.glob("committee-*.json")):
        assert f"{json.loads(file.read_text())['test']['accuracy']:.3f}" in section, file.name


def test_speed_table_is_that_of_the_results_files():
    section = section_of("speed")
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
    section = section_of("overlap")
    table = json.loads((ROOT / "results" / "data" / "overlap.json").read_text())["table"]
    assert set(table) == {"ag_news", "dbpedia_14", "fewrel"}
    for task, subsets in table.items():
        found = (subsets[kind]["test"] for kind in ("high", "random", "low"))
        cells = [f"{values['jensen_shannon_bits']:.3f}, {values['occurrence_coverage']:.3f}" for values in found]
        assert f"| `{task}` | {' | '.join(cells)} |" in section


def test_training_table_is_that_of_the_results_files():
    section = section_of("training")
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
        ("paper-init", "initializer 0.02, lr 5e-4"),
        ("laptop-float32", "tlm"),
    ):
        trials = {
            row["trial"]: row for row in json.loads((folder / f"search-bert-1-{name}.json").read_text())["trials"]
        }
        losses = (trials[name]["held_out_loss"] for name in ("paper", "paper, repaired", trial))
        assert " | ".join(f"{loss:.3f}" for loss in losses) in section, name
        share = trials[trial]["share_to_match"]
        assert (f"{100 * share:g}%" if share else "not reached") in section


def test_shares_and_downstream_tables_are_those_of_the_results_files():
    section = section_of("training")
    for line in (*deep_rows(), *downstream_rows()):
        assert line in section, line


def deep_rows():
    """bert-6@laptop over the seeds: the authors' final losses, ours, the shares of texts after which ours was there."""
    folder = ROOT / "results" / "training"
    trials = json.loads((folder / "search-bert-6-laptop-depth.json").read_text())["trials"]
    theirs = sorted(row["held_out_loss"] for row in trials if row["trial"] == "paper")
    ours = [row for row in trials if row["trial"] == "initializer 0.02"]
    losses = sorted(row["held_out_loss"] for row in ours)
    reached = [f"{100 * row['share_to_match']:.0f}%" if row["share_to_match"] else "not reached" for row in ours]
    cells = [f"{values[0]:.3f} to {values[-1]:.3f}" for values in (theirs, losses)]
    yield f"| bert-6@laptop, {len(ours)} seeds | {cells[0]} | {cells[1]} | a tenth | {', '.join(reached)} |"


def downstream_rows():
    """AG News accuracy of fine-tuned encoders by how they were pre-trained."""
    rows = json.loads((ROOT / "results" / "training" / "downstream-bert-1-paper.json").read_text())["rows"]
    for row in rows:
        yield f"| {row['encoder']} | {row['learning_rate']:g} | {100 * row['mean']:.1f} ± {100 * row['sd']:.1f} |"


def test_committee_tables_are_those_of_the_results_files():
    section = section_of("inference")
    for line in (*inference_rows(), *grid_rows(), *variant_rows(), *precision_rows()):
        assert line in section, line


def inference_rows():
    """Ten members in every runtime and precision, and other numbers of members in torch's float32, at 128 tokens."""
    folder = ROOT / "results" / "committee"
    for file in sorted(folder.glob("inference-*.json")):
        for row in json.loads(file.read_text())["rows"]:
            kind = f"{row['runtime']} {row['precision']}"
            if row["sequence_length"] != 128 or (row["members"] != 10 and kind != "torch fp32"):
                continue
            cells = [row["recipe"], row["members"], f"{row['batch_size']} x {row['sequence_length']}", kind]
            cells += [f"{row['committee_ms']:.3g}", f"{row['reference_ms']:.3g}", f"{row['ratio']:.1f}"]
            cells += [f"{row['limit_ms']:.3g}" if "limit_ms" in row else "", f"{row['max_abs_diff']:.0e}"]
            yield f"| {' | '.join(map(str, cells))} |"


def grid_rows():
    """How many times as fast as the deep encoder, by members and precision, over all shapes."""
    found = {
        (row["precision"], row["members"], row["batch_size"], row["sequence_length"]): row["ratio"]
        for name in ("grid-1-8", "grid-32-128")
        for row in json.loads((ROOT / "results" / "committee" / f"{name}.json").read_text())["rows"]
    }
    shapes = sorted({key[2:] for key in found})
    assert len(shapes) == 12
    for precision in ("fp32", "bf16"):
        for members in sorted({key[1] for key in found}):
            cells = [f"{found[precision, members, *shape]:.1f}" for shape in shapes]
            yield f"| {members} | {precision} | {' | '.join(cells)} |"


def variant_rows():
    """Committees of the same five members, by how they vote."""
    for name in ("committee", "committee-fitted", "committee-logits", "committee-vote", "committee-chosen"):
        found = json.loads((ROOT / "results" / "committee" / f"{name}.json").read_text())
        test = found["test"]
        pairs = (("calibration_error", 3), ("loss", 3), ("brier_score", 3))
        cells = [f"{test[f'{key}_before']:.{digits}f} / {test[key]:.{digits}f}" for key, digits in pairs]
        yield f"| {name} | {len(found['members'])} | {test['accuracy']:.3f} | {' | '.join(cells)} |"


def precision_rows():
    """The committee in other runtimes and precisions."""
    found = json.loads((ROOT / "results" / "committee" / "precision.json").read_text())
    for row in found["rows"]:
        cells = [f"{row['accuracy']:.4f}", f"{row['agreement']:.2%}", f"{row['max_abs_diff']:.1e}"]
        yield f"| {row['runtime']} {row['precision']} | {' | '.join(cells)} |"


def test_study_tables_are_those_of_its_report():
    section = section_of("study")
    report = (ROOT / "results" / "study" / "laptop" / "REPORT.md").read_text().splitlines()
    shown = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(shown) > 5
    for line in shown:
        assert line in report, line
    prose = " ".join(line for line in section.splitlines() if not line.startswith("|"))
    for estimate in re.findall(r"[+-]?\d+\.\d \[[^\]]+\]", prose):
        assert estimate in "\n".join(report), estimate


def test_the_studys_report_is_that_of_its_records(tmp_path):
    results = ROOT / "results" / "study" / "laptop"
    (tmp_path / "runs").symlink_to(results / "runs")
    write_report(StudyArguments(size="laptop", results_dir=str(tmp_path)))
    for name in ("REPORT.md", "rows.json"):
        assert (tmp_path / name).read_text() == (results / name).read_text()


def test_release_figures_are_those_of_the_results_file():
    section = section_of("release")
    summary = json.loads((ROOT / "results" / "release" / "faults.json").read_text())["summary"]
    assert summary["looks_that_found_something_else"] == summary["token_shown"] == 0
    assert f"{summary['disturbed_pushes']} pushes" in section
    assert f"{summary['kinds_of_fault']} kinds of fault" in section
    assert f"at {summary['steps']} steps" in section
    assert f"in all {summary['ended_as_undisturbed']} ({summary['needed_overwrite']} of them" in section
    assert summary["ended_as_undisturbed"] == summary["disturbed_pushes"]
    assert f"{summary['first_push_done_nonetheless']} got over" in section
    assert f"looked {summary['looks_of_the_reader']:,} times" in section
