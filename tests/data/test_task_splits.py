"""Which rows come into which split of a task: the paper's sizes, shortfalls, disjoint splits, pinned sources."""

import datasets
import pytest
from conftest import refusal
from helpers_commands import labelled_rows, write_csv

from tlm_hf.data.kinds import class_names, per_label
from tlm_hf.data.task_splits import rotate
from tlm_hf.data.tasks import KNOWN, SPLITS, TaskArguments, load_task, load_task_from, task_hash
from tlm_hf.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """A data root whose AG News has 1,300 training and 1,000 test texts a class, of the last class 40 fewer."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "ag_news").mkdir()
    for split, size in (("train", 1300), ("test", 1000)):
        rows = [
            {"text": f"{split} {label} {index}", "label": label}
            for label in range(4)
            for index in range(size - 40 * (label == 3))
        ]
        datasets.Dataset.from_list(rows).to_parquet(str(folder / "ag_news" / f"{split}.parquet"))
    return str(folder)


def test_the_papers_numbers_are_the_default_and_fewer_are_refused_or_taken(root, caplog):
    said = refusal(load_task, "ag_news", root=root)
    assert all(part in said for part in ("1000 test texts", "'Sci/Tech' 960", "at most 960", "--shortfall take"))
    task = load_task("ag_news", root=root, shortfall="take")
    sizes = {split: list(per_label(task[split]).values()) for split in SPLITS}
    assert sizes == {"train": [1000] * 4, "validation": [130, 130, 130, 126], "test": [1000, 1000, 1000, 960]}
    assert "'Sci/Tech' 960" in caplog.text


@pytest.mark.parametrize(
    ("options", "split"),
    [
        ({"validation_per_label": 50}, "train"),
        ({"test_per_label": 39}, "validation"),
        ({"test_per_label": 20, "validation_per_label": 20}, "train"),
    ],
)
def test_a_split_without_rows_of_a_class_is_refused(tmp_path, options, split):
    said = refusal(load_task, str(write_csv(tmp_path / "task.csv", labelled_rows(40))), shortfall="take", **options)
    assert all(part in said for part in (f"No {split} text", "left for 'farm', 'sea':", "--validation-per-label"))


def test_validation_is_fifteen_per_cent_where_the_source_has_no_test_split(tmp_path):
    rows = [{"text": f"text number {i}", "label": "ab"[i % 2]} for i in range(4000)]
    task = load_task(datasets.Dataset.from_list(rows))
    assert {split: len(task[split]) for split in task} == {"train": 2800, "validation": 600, "test": 600}
    write_csv(tmp_path / "test.csv", rows[:2])
    assert "no train split" in refusal(load_task, str(tmp_path))


def test_leaking_rows_are_dropped_where_that_is_asked():
    rows = [{"text": f"the text with number {i} is unlike others", "label": "ab"[i % 2]} for i in range(40)]
    leaks = [{"text": row["text"].upper(), "label": row["label"]} for row in rows[:3]]
    splits = {"train": datasets.Dataset.from_list(leaks + rows[10:]), "test": datasets.Dataset.from_list(rows[:10])}
    plain = load_task(datasets.DatasetDict(splits), train_per_label=10)
    clean = load_task(datasets.DatasetDict(splits), train_per_label=10, drop_leakage=True)
    assert clean["test"].to_list() == plain["test"].to_list()
    for split in ("train", "validation"):
        assert clean[split].to_list() == [row for row in plain[split] if not row["text"].isupper()]
    assert any(row["text"].isupper() for split in plain.values() for row in split)


@pytest.mark.parametrize("name", ["ag_news", "dbpedia_14"])
@pytest.mark.parametrize("revision", [None, "other"])
def test_the_hub_is_read_at_a_pinned_revision(name, revision, monkeypatch, tmp_path):
    known, asked = KNOWN[name], []
    rows = [{known.text_column: f"{i} word", "label": i % len(known.labels)} for i in range(1000)]

    def load_dataset(**options):
        asked.append(options)
        halves = {"train": rows[:700], "test": rows[700:]}
        return datasets.DatasetDict({split: datasets.Dataset.from_list(part) for split, part in halves.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("TLM_DATA", raising=False)
    load_task(name, root=str(tmp_path), revision=revision, train_per_label=5, test_per_label=5)
    expected = revision or known.revision
    assert [(options["path"], options["revision"]) for options in asked] == [(known.hub, expected)]
    assert len(known.revision) == 40


def test_training_rows_are_drawn_anew_from_what_is_not_held_out(root):
    first, other = (
        load_task("ag_news", root=root, train_per_label=9, test_per_label=90, train_seed=seed) for seed in (None, 5)
    )
    for split in ("validation", "test"):
        assert first[split]["id"][:] == other[split]["id"][:]
    drawn = set(other["train"]["id"])
    assert drawn != set(first["train"]["id"])
    assert not drawn & {*first["validation"]["id"], *first["test"]["id"]}


def test_options_reach_the_task(root, tmp_path):
    arguments = TaskArguments(task="ag_news", data_root=root, train_per_label=9, test_per_label=4, task_seed=3)
    expected = load_task("ag_news", root=root, train_per_label=9, test_per_label=4, seed=3)
    assert task_hash(load_task_from(arguments)) == task_hash(expected)
    assert class_names(expected) == list(KNOWN["ag_news"].labels)
    arguments = TaskArguments(task="ag_news", task_path=f"{root}/ag_news", shortfall="take")
    assert len(load_task_from(arguments)["test"]) == 3960
    for bad, part in (
        ({"task": "ag_news", "data_root": root, "entity_markers": "text"}, "--entity-markers"),
        ({"task": str(tmp_path), "task_path": root}, "--task-path"),
        ({"task": "ag_news", "task_path": "no/where"}, "does not exist"),
        ({"train_seed": 1}, "--train-seed"),
        ({"task": "ag_news", "shortfall": "ignore"}, "ignore"),
        ({"task": "ag_news", "train_per_label": 0}, "--train-per-label"),
    ):
        with pytest.raises(UserError, match=part):
            load_task_from(TaskArguments(**bad))


def test_members_hold_out_rows_in_turn_as_many_of_each_class(root):
    task = load_task("ag_news", root=root, train_per_label=20, validation_per_label=6, test_per_label=2)
    splits, every = list(rotate(task, 5)), sorted(task["train"]["id"][:] + task["validation"]["id"][:])
    assert splits[0] is task
    held_out = [set(each["validation"]["id"]) for each in splits]
    assert len(set.union(*held_out[:4])) == 4 * 6 * 4  # 26 rows of a class: four turns of 6 others each
    assert held_out[4] & held_out[0]
    for each in splits:
        assert per_label(each["validation"]) == per_label(task["validation"])
        assert sorted(each["train"]["id"][:] + each["validation"]["id"][:]) == every
        assert each["test"]["id"][:] == task["test"]["id"][:]


def test_equal_texts_are_held_out_together_and_a_part_of_one_number_is_not_taken():
    classes = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    train = {"text": ["same", "a", "b", "same", "d"], "label": [1, 0, 1, 0, 1]}
    rows = {"train": train, "validation": {"text": ["v", "w"], "label": [0, 1]}, "test": {"text": [], "label": []}}
    task = datasets.DatasetDict({split: datasets.Dataset.from_dict(each, classes) for split, each in rows.items()})
    _, second = rotate(task, 2)
    assert sorted(second["validation"]["text"]) == ["d", "same", "same"]
    assert sorted(second["train"]["text"]) == ["a", "b", "v", "w"]
    numbers = {"train": [1.0, 2.0, 0.0, 0.0], "validation": [0.0, 3.0], "test": [1.0]}
    of_numbers = {
        split: {"text": [f"{split} {n}" for n in range(len(each))], "label": each} for split, each in numbers.items()
    }
    task = datasets.DatasetDict({split: datasets.Dataset.from_dict(each) for split, each in of_numbers.items()})
    assert list(rotate(task, 2)) == [task, task]
