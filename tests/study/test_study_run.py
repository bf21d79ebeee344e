"""The study end to end at its smallest: what it leaves, what survives a kill, what a deleted record comes back as."""

import json
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import refusal
from filelock import FileLock
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.metrics import accuracy_score

from tlm_hf.errors import UserError
from tlm_hf.evaluation.scoring import pack_logits, unpack_logits
from tlm_hf.runs import atomic_files
from tlm_hf.study import execute, plan_file
from tlm_hf.study import study as study_module
from tlm_hf.study.execute import read_record
from tlm_hf.study.export import ExportArguments, export_study, round_logits
from tlm_hf.study.findings import Row
from tlm_hf.study.report import draw_plots, with_texts, write_report
from tlm_hf.study.study import StudyArguments, run_study, show_plan

TINY = {  # one-layer encoders on embedded text, every finding with two points
    "recipe_size": "smoke",
    "corpus": "docstrings",
    "tokenizer_texts": 300,
    "pretraining": {"bert-1": {"num_texts": 128, "max_steps": 4}},
    "tasks": {"docstrings": {"train_per_label": 8, "validation_per_label": 4, "test_per_label": 6}},
    "finetuning": {
        "bert-1": {
            "num_train_epochs": 1,
            "pretrained": [{"learning_rate": 1e-3}, {"learning_rate": 3e-3}],
            "scratch": [{"learning_rate": 1e-3}],
        }
    },
    "rates": {"seeds": 1, "follow": 0},
    "pretraining_seeds": 1,
    "finetuning_seeds": 2,
    "corpus_size": {"num_texts": [64, 128], "max_steps": 4},
    "overlap": {"num_texts": 100, "corpus_texts": 1000, "max_steps": 4},
    "labels": {"train_per_label": [4, 8, 9], "validation_per_label": 3, "patience": 3},
    "committee": {
        "members": {"bert-1": 3},
        "variants": {"bert-1 of 6 steps": {"members": 2, "pretraining": {"max_steps": 6}}},
        "own_texts": 64,
        "reference": "bert-1",
        "counts": [1, 2, 3],
        "batch_size": [1],
    },
}


def write_plan(folder, **changes):
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump({"smoke": {**TINY, **changes}}))
    return file


def arguments(folder, **more):
    return StudyArguments(
        size="smoke", plan=str(folder / "plan.yaml"), results_dir=str(folder / "results"),
        work_dir=str(folder / "work"), workers=1, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_plan(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "LATENCY_REPEATS", 2)
        found = run_study(arguments(folder))
    assert (found["missing"], found["waiting"]) == (0, 0)
    assert found["done"] == len(list((folder / "results" / "runs").iterdir()))
    return folder


@pytest.fixture(scope="module")
def report(study):
    """Rows of the report of the study, which is not changed."""
    return write_report(arguments(study))["rows"]


@pytest.fixture
def copy(study, tmp_path):
    """A folder with the plan and the study's records, without weights, as in a fresh clone."""
    shutil.copytree(study / "results", tmp_path / "results")
    write_plan(tmp_path)
    return tmp_path


def records(folder):
    return {path.name: read_record(path) for path in sorted((folder / "results" / "runs").iterdir())}


def finetunings(folder):
    return [record for record in records(folder).values() if record.kind == "finetune"]


def read_logits(folder, name):
    with np.load(folder / "results" / "runs" / name / "logits.npz", allow_pickle=False) as stored:
        return dict(stored)


def test_an_accuracy_is_that_of_the_committed_logits(study):
    tuned = finetunings(study)
    assert len(tuned) >= 5
    for record in tuned:
        stored = read_logits(study, record.name)
        for split in ("validation", "test"):
            ours = accuracy_score(stored[f"{split}_labels"], unpack_logits(stored[split]).argmax(axis=-1))
            assert ours == pytest.approx(record.results[split]["accuracy"])


def test_a_record_has_no_path_of_this_machine(study):
    records = [path for path in (study / "results" / "runs").rglob("*.json") if path.is_file()]
    assert records
    assert not [path for path in records if str(study) in path.read_text()]


def test_the_report_has_every_finding(study, report):
    pictures = {path.stem for path in (study / "results").glob("*.png")}
    assert pictures == {"gap", "corpus_size", "committee", "labels"}
    assert {row["finding"] for row in report} == {"gap", "corpus_size", "overlap", "committee", "labels", "baselines"}
    # A committee of one-layer members has the time of its tables too.
    page = (study / "results" / "REPORT.md").read_text().split("## d. Committees")[1]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in re.findall(r"^\|.*$", page, re.MULTILINE)]
    (line,) = [line for line in table if line[:3] == ["docstrings", "committee of bert-1", "2"]]
    assert float(line[table[0].index("ms, frozen")]) > 0
    for row in report:
        assert row["low"] - 1e-9 <= row["estimate"] <= row["high"] + 1e-9, row


def test_a_model_has_one_colour_in_all_panels_and_the_legend_is_inside_the_figure(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    rows = json.loads(Path(__file__).parents[2].joinpath("results/study/fair/rows.json").read_text())["rows"]
    lacks = ("ag_news", "committee of bert-1, counts first")  # the first panel
    rows = [Row(**row) for row in rows if (row["task"], row["model"]) != lacks]
    drawn = draw_plots(with_texts(rows), plan_file.read_plan("fair", plan_file.PLAN_FILE), tmp_path)
    assert (len(figures), drawn) == (4, [])  # the report links no picture that was not written
    for figure in figures:
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        colours = defaultdict(set)
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                colours[label].add(to_hex((handle[0] if isinstance(handle, tuple) else handle).get_color()))
        assert {len(found) for found in colours.values()} == {1}, colours


@pytest.mark.parametrize(
    ("asked", "shown"), [(["gap", "labels"], "ae"), (["corpus_size", "overlap"], "bc"), (["committee"], "d")]
)
def test_a_report_of_some_findings_has_their_rows_and_sections(report, copy, asked, shown):
    for folder in (copy / "results" / "runs").glob("latency*"):
        shutil.rmtree(folder)
    found = write_report(arguments(copy, findings=asked))["rows"]
    assert [row for row in found if row["finding"] != "baselines"] == [row for row in report if row["finding"] in asked]
    page = (copy / "results" / "REPORT.md").read_text()
    assert "".join(re.findall(r"^## ([a-e])\. ", page, re.MULTILINE)) == shown


def test_members_that_cannot_be_frozen_are_timed_without_tables(monkeypatch):
    monkeypatch.setattr(execute, "LATENCY_REPEATS", 1)
    settings = {**TINY["committee"], "size": "smoke", "members": {"bert-1-conv2": 2}, "counts": [2]}
    found = execute.EXECUTORS["latency"](settings, None, None)
    assert found["step_seconds"].keys() == {"bert-1", "bert-1-conv2"}
    timed = {(row["model"], row["members"]) for row in found["rows"]}
    assert timed == {("bert-1", 1), ("bert-1, our fast path", 1), ("bert-1-conv2", 2)}


def test_each_seed_of_a_plan_that_draws_anew_has_its_own_subsets(study):
    settings = next(record.settings for record in records(study).values() if record.kind == "subsets")
    found = []
    for seed in (0, 1):
        folder = study / "work" / f"of-seed-{seed}"
        folder.mkdir()
        found.append(execute.EXECUTORS["subsets"](settings | {"seed": seed}, folder, None)["measures"])
    first, second = (measures["docstrings"]["random"]["sha256"] for measures in found)
    assert first != second


def test_members_with_more_steps_are_compared_with_as_many_and_all_of_the_first(study, report):
    name = "committee of bert-1 of 6 steps"
    rows = {(row["x"], row["measure"]): row["estimate"] for row in report if row["model"] == name}
    whole = [each for each in finetunings(study) if each.settings["task_options"]["train_per_label"] == 8]
    tuned = [record for record in whole if record.settings["encoder"] is not None]
    tuned = [record for record in tuned if record.settings["seed"] % 2 == 0]  # the first of two of each encoder
    (rate,) = {record.settings["learning_rate"] for record in tuned if record.settings["seed"] > 0}
    probabilities = {"4": [], "6": []}
    for record in tuned:
        for steps, members in probabilities.items():
            is_member = record.settings["encoder"].startswith(f"pretrain-bert-1-128-texts-{steps}-steps")
            if is_member and record.settings["learning_rate"] == rate:
                stored = read_logits(study, record.name)
                labels = stored["test_labels"].astype(int)
                members.append(softmax(unpack_logits(stored["test"]), axis=-1))

    def right(members):
        return (np.mean(members, axis=0).argmax(axis=-1) == labels).mean()

    four, six = probabilities.values()
    assert (len(four), len(six)) == (3, 2)
    ones = np.mean([right([one]) for one in six])
    assert rows[1, "accuracy"] == pytest.approx(ones, abs=1e-6)
    assert rows[2, "accuracy"] == pytest.approx(right(six), abs=1e-6)
    assert rows[2, "difference from its members"] == pytest.approx(right(six) - ones, abs=2e-6)
    pairs = np.mean([right(pair) for pair in combinations(four, 2)])
    assert rows[2, "difference from as many bert-1"] == pytest.approx(right(six) - pairs, abs=2e-6)
    assert rows[2, "difference from 3 bert-1"] == pytest.approx(right(six) - right(four), abs=2e-6)
    (gap,) = [row for row in report if (row["model"], row["x"], row["measure"]) == ("bert-1 of 6 steps", None, "gap")]
    scratch = [r.results["test"]["accuracy"] for r in whole if r.settings["encoder"] is None]
    assert gap["estimate"] == pytest.approx(rows[1, "accuracy"] - np.mean(scratch), abs=2e-6)
    assert gap["runs"] == [2, 2]


def test_a_committee_of_members_with_texts_of_their_own_has_the_encoders_of_so_many_texts(study, report):
    found = [row for row in report if row["model"].endswith("each of its own texts")]
    assert {row["model"].split(",")[0] for row in found} == {"committee of bert-1", "committee of bert-1 of 6 steps"}
    (record,) = (r for r in finetunings(study) if str(r.settings["encoder"]).startswith("pretrain-bert-1-64-texts-6-"))
    (row,) = (row for row in found if "6 steps" in row["model"] and row["measure"] == "accuracy")
    assert row["estimate"] == pytest.approx(record.results["test"]["accuracy"], abs=1e-6)
    (alike,) = (row for row in found if row["measure"] == "difference from as many bert-1 of 6 steps")
    of_all = {(row["model"], row["x"], row["measure"]): row["estimate"] for row in report}
    shared = of_all["committee of bert-1 of 6 steps", 1, "accuracy"]
    assert alike["estimate"] == pytest.approx(row["estimate"] - shared, abs=2e-6)


def test_a_committee_of_one_encoder_is_of_its_fine_tunings_and_pays_for_its_pre_training_once(study, report):
    name = "committee of one bert-1, fine-tuned several times"
    rows = {row["x"]: row for row in report if (row["model"], row["measure"]) == (name, "accuracy")}
    encoder = next(name for name in records(study) if name.startswith("pretrain-bert-1-128-texts-4-steps-0-"))
    whole = [r for r in finetunings(study) if r.settings["task_options"]["train_per_label"] == 8]
    (second,) = (r for r in whole if (r.settings["encoder"], r.settings["seed"]) == (encoder, 1))
    rate = second.settings["learning_rate"]  # the chosen one
    both = [r for r in whole if (r.settings["encoder"], r.settings["learning_rate"]) == (encoder, rate)]
    stored = [read_logits(study, record.name) for record in both]
    probabilities = np.mean([softmax(unpack_logits(each["test"]), axis=-1) for each in stored], axis=0)
    right = (probabilities.argmax(axis=-1) == stored[0]["test_labels"]).mean()
    assert rows[2]["estimate"] == pytest.approx(right, abs=1e-6)
    assert rows[2]["runs"] == [1]
    seconds = {r.name: r.results["seconds"] for r in records(study).values() if "seconds" in r.results}
    assert rows[2]["seconds"] == round(seconds[encoder] + 2 * np.median([seconds[r.name] for r in both]))


def test_the_gap_by_labels_is_that_of_their_runs_at_their_own_rate(study, report):
    few = [record for record in finetunings(study) if record.settings["task_options"]["train_per_label"] == 4]
    assert {(record.settings["patience"], record.results["rows"]["validation"]) for record in few} == {(3, 27)}
    tried = {steps: [r for r in few if f"-{steps}-steps-0-" in str(r.settings["encoder"])] for steps in (4, 6)}
    assert [len(each) for each in tried.values()] == [2, 2]
    of_rate = [sorted(each, key=lambda record: record.settings["learning_rate"]) for each in tried.values()]
    best, longer = (max(each, key=lambda record: record.results["validation"]["accuracy"]) for each in of_rate)
    (scratch,) = (record for record in few if record.settings["encoder"] is None)

    def accuracy_of(name):
        stored = read_logits(study, name)
        return (unpack_logits(stored["test"]).argmax(axis=-1) == stored["test_labels"]).mean()

    every = [row for row in report if row["finding"] == "labels"]
    rows, below = [row for row in every if row["x"] == 4], accuracy_of(scratch.name)
    gaps = {row["model"]: row["estimate"] for row in rows if row["measure"] == "gap"}
    both = {"bert-1": accuracy_of(best.name) - below, "bert-1 of 6 steps": accuracy_of(longer.name) - below}
    assert gaps == pytest.approx(both, abs=1e-6)
    assert {row["x"] for row in every} == {4, 8}  # 8 are all that the task has, and of the gap's runs
    fitted = [name for name, record in records(study).items() if record.kind == "linear" and "4-labels" in name]
    shown = [row["estimate"] for row in rows if row["model"] == "TF-IDF + linear model"]
    assert shown == pytest.approx([accuracy_of(*fitted)], abs=1e-6)
    assert not [name for name in records(study) if re.search("[89]-labels", name)]
    some = show_plan(arguments(study, findings=["labels"]))
    assert some["runs"] < show_plan(arguments(study))["runs"]
    assert show_plan(arguments(study, tasks=["docstrings"]))["runs"] == show_plan(arguments(study))["runs"]
    words = "The plan has no task 'mail': choose among docstrings."
    assert refusal(show_plan, arguments(study, tasks=["mail"])) == words


def test_an_exported_study_has_the_rows_of_the_whole_in_smaller_files(study, report, tmp_path):
    write_plan(tmp_path)
    options = ExportArguments(**{**vars(arguments(study)), "output_dir": str(tmp_path / "results")})
    assert export_study(options)["records"] == len(records(study))
    assert write_report(arguments(tmp_path))["rows"] == report
    folders = tmp_path / "results", study / "results"
    sizes = [sum(file.stat().st_size for file in folder.rglob("logits.npz")) for folder in folders]
    assert sizes[0] < sizes[1]
    assert "exists" in refusal(export_study, options)
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(export_study, replace(options, output_dir=str(tmp_path / "file" / "a")))


def test_rounded_logits_have_the_same_largest_ones():
    logits = np.random.default_rng(0).normal(scale=[[0.01], [3.0], [1e4]], size=(200, 3, 5))
    logits[:20, :, 1:3] = 1e5  # two that are equally large
    packed = pack_logits(logits)
    rounded = unpack_logits(round_logits(packed))
    assert np.array_equal(rounded.argmax(axis=-1), logits.argmax(axis=-1))
    within = (packed > 0) & (packed < 60000)
    assert np.abs(rounded - unpack_logits(packed))[within].max() < 2


def test_a_deleted_record_comes_back_and_nothing_else_is_done_again(study):
    for kind in ("pretrain", "linear", "tokenizer"):
        name = next(name for name, record in records(study).items() if record.kind == kind)
        folder = study / "results" / "runs" / name
        before, others = read_record(folder), {p: p.stat().st_mtime_ns for p in folder.parent.iterdir() if p != folder}
        shutil.rmtree(folder)
        shutil.rmtree(study / "work" / name)  # as on another machine: weights are not committed
        assert run_study(arguments(study))["done"] == 1
        after = read_record(folder)
        for measured in ("test", "validation", "held_out", "accuracy", "sha256"):
            assert after.results.get(measured) == before.results.get(measured)
        assert others == {p: p.stat().st_mtime_ns for p in folder.parent.iterdir() if p != folder}


def test_weights_that_are_made_again_leave_committed_records_alone(study, copy):
    runs = copy / "results" / "runs"
    lost = next(record.name for record in finetunings(study) if record.settings["encoder"])
    shutil.rmtree(runs / lost)
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    assert run_study(arguments(copy))["done"] == 1
    assert {path: path.read_bytes() for path in before} == before
    assert read_record(runs / lost).results["test"] == records(study)[lost].results["test"]


def test_a_study_that_ends_within_a_record_loses_no_finished_run(tmp_path, monkeypatch):
    write_plan(tmp_path)
    runs, flushed, flush_tree = tmp_path / "results" / "runs", [], atomic_files.flush_tree

    def strike(folder):
        if folder.parent == runs:
            flushed.append(folder)
            if len(flushed) % 3 == 0:
                raise KeyboardInterrupt
        flush_tree(folder)

    monkeypatch.setattr(atomic_files, "flush_tree", strike)
    with pytest.raises(KeyboardInterrupt):
        run_study(arguments(tmp_path))
    finished = {path.name: path.stat().st_mtime_ns for path in runs.iterdir()}
    assert len(finished) == 2
    with pytest.raises(KeyboardInterrupt):
        run_study(arguments(tmp_path))
    assert len(records(tmp_path)) == 4
    assert {name: (runs / name).stat().st_mtime_ns for name in finished} == finished


def test_the_plan_counts_what_is_missing(study, tmp_path):
    assert show_plan(arguments(study))["core_hours"] == 0
    write_plan(tmp_path)
    found = show_plan(arguments(tmp_path))
    assert (found["done"], found["core_hours"] > 0, found["waiting"] > 0) == (0, True, True)
    assert "core-hours" in found["table"]


@pytest.mark.parametrize(("file", "content"), [("results.json", b"{}"), ("logits.npz", b"PK")])
def test_a_damaged_record_is_named(study, copy, file, content):
    name = next(record.name for record in finetunings(study) if record.settings["encoder"])
    broken = copy / "results" / "runs" / name
    (broken / file).write_bytes(content)
    said = refusal(write_report, arguments(copy))
    assert broken.name in said
    assert "delete it" in said


def test_runs_of_other_test_texts_are_not_compared(study, copy):
    name = next(record.name for record in finetunings(study) if record.settings["encoder"])
    values = read_logits(copy, name)
    file = copy / "results" / "runs" / name / "logits.npz"
    np.savez_compressed(file, **values | {"test_labels": values["test_labels"][::-1]})
    assert "other test texts" in refusal(write_report, arguments(copy))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"corpus": "no_such_folder"}, "no_such_folder"),
        ({"tasks": TINY["tasks"] | {"no_such_task.csv": {}}}, "no_such_task.csv"),
        ({"overlap": TINY["overlap"] | {"corpus_texts": 1_000_000}}, "1,?000,?000"),
        ({"pretraining": {"bert-1": TINY["pretraining"]["bert-1"] | {"text_unit": "article"}}}, "'article'"),
        ({"tasks": {"docstrings": {"train_per_label": 1_000_000}}}, "1,?000,?000"),
    ],
)
def test_text_that_is_not_there_is_named_before_the_first_run(tmp_path, change, said):
    write_plan(tmp_path, **change)
    assert re.search(said, refusal(run_study, arguments(tmp_path)))
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "results" / "runs").exists()


@pytest.mark.parametrize(("findings", "read"), [(["gap"], ["docstrings"]), (["overlap"], ["docstrings", "mail"])])
def test_tasks_that_are_not_asked_for_are_read_where_runs_need_them(tmp_path, monkeypatch, findings, read):
    write_plan(tmp_path, tasks=TINY["tasks"] | {"mail": {}})
    names = []
    monkeypatch.setattr(plan_file, "load_task", lambda name, **_: names.append(name))
    monkeypatch.setattr(study_module, "run_jobs", lambda *_, **__: None)
    run_study(arguments(tmp_path, findings=findings, tasks=["docstrings"]))
    assert names == read


def test_a_second_study_in_the_same_folder_is_refused(tmp_path):
    write_plan(tmp_path)
    folder = arguments(tmp_path).results_folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="Another process"):
        run_study(arguments(tmp_path))
