"""Tasks of any table: labels, what is left out and counted, ids and facts, `Dataset` objects."""

import hashlib
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import refusal
from helpers_commands import labelled_rows, write_csv
from hypothesis import example, given
from hypothesis import strategies as st

from tlm_hf.data.docstrings import TASK_LIBRARIES, load_docstrings, mask_names
from tlm_hf.data.kinds import class_names, per_label
from tlm_hf.data.tasks import SPLITS, load_task, task_hash
from tlm_hf.errors import UserError


def table(path: Path, labels: list, features=None) -> str:
    """A parquet file of the texts `0 word`, `1 word` ... with these labels."""
    rows = {"text": [f"{index} word" for index in range(len(labels))], "label": labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return str(path)


def labels_by_number(task) -> dict[int, str]:
    """The name of the label of each row by the number at the start of its text."""
    names = class_names(task)
    return {int(row["text"].split()[0]): names[row["label"]] for split in SPLITS for row in task[split]}


def note_of(caplog) -> str:
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("tlm_hf")]
    return said


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "names"), [([True, False], ["False", "True"]), ([10, 9, 100], ["9", "10", "100"])]
    )
    def test_values_become_names_in_sorted_order(self, tmp_path, labels, names):
        labels = [labels[index % len(labels)] for index in range(60)]
        shown = [str(label) for label in labels]
        rows = [{"text": f"{index} word", "label": label} for index, label in enumerate(labels)]
        for file in (table(tmp_path / "a.parquet", labels), str(write_csv(tmp_path / "a.csv", rows))):
            task = load_task(file)
            assert class_names(task) == names
            assert labels_by_number(task) == dict(enumerate(shown))
        task = load_task(table(tmp_path / "floats.parquet", [10.0, 9.0, -2.0] * 20))
        assert class_names(task) == ["-2", "9", "10"]

    @pytest.mark.parametrize(("kind", "hole"), [(str, " "), (int, None), (float, float("nan")), (bool, None)])
    def test_an_empty_label_or_text_is_left_out_and_counted(self, tmp_path, caplog, kind, hole):
        values = {str: "ab", int: [4, 5], float: [4.0, 5.0], bool: [False, True]}[kind]
        rows = [{"text": f"{index} word", "label": values[index % 2]} for index in range(40)]
        rows[7]["label"], rows[9]["text"], rows[12]["text"] = hole, None, "  "
        rows[13]["text"] = rows[15]["text"]
        path = tmp_path / "holes.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows).replace("NaN", "null"), encoding="utf-8")
        task = load_task(str(path))
        assert set(labels_by_number(task)) == set(range(40)) - {7, 9, 12, 13}
        said = "left out 1 (duplicates), 1 (empty label), 2 (empty text)"
        assert said in note_of(caplog)
        assert {task[split].info.description for split in task} == {said}

    @pytest.mark.parametrize(
        ("missing", "rows", "refused"), [(1, 9, False), (2, 19, True), (4, 40, False), (5, 40, True)]
    )
    def test_many_empty_labels_are_refused(self, tmp_path, caplog, missing, rows, refused):
        labels = ["ab"[index % 2] for index in range(rows - missing)]
        path = table(tmp_path / "gaps.parquet", [*labels[:3], *[None] * missing, *labels[3:]])
        if refused:
            said = refusal(load_task, path)
            assert all(part in said for part in ("'label'", "gaps.parquet", f"{missing} of {rows}", "row 4 of train"))
        else:
            load_task(path, validation_per_label=1, test_per_label=1)
            assert f"left out {missing} (empty label)." in note_of(caplog)

    def test_unlabelled_rows_of_a_class_label(self, tmp_path, caplog):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])})
        task = load_task(table(tmp_path / "a.parquet", [0, 1] * 20 + [-1], features))
        assert class_names(task) == ["z", "a"]
        assert "left out 1 (empty label)." in note_of(caplog)
        (tmp_path / "task").mkdir()
        table(tmp_path / "task" / "train.parquet", [0, 1] * 20, features)
        table(tmp_path / "task" / "test.parquet", [-1] * 20, features)
        assert "holds no label in test" in refusal(load_task, str(tmp_path / "task"))

    def test_other_values_are_refused(self, tmp_path):
        for labels, said in (([0.5, 1.0], "0.5"), ([float("inf"), 1.0], "inf")):
            assert said in refusal(load_task, table(tmp_path / "odd.parquet", labels * 20))
        for labels in ([0, 1, 2, 3, 4], [1, 0, 4.5], ["World", "Weather"], [[0], [1]]):
            path = table(tmp_path / "news.parquet", labels * 8)
            assert "none of 0 to 3" in refusal(load_task, "ag_news", path=path, train_per_label=1, test_per_label=1)
        path = table(tmp_path / "names.parquet", ["World", "Sports", "Business", "Sci/Tech"] * 8)
        named = load_task("ag_news", path=path, train_per_label=1, test_per_label=1)["test"]
        assert named.features["label"].names == ["World", "Sports", "Business", "Sci/Tech"]
        numbers = datasets.Dataset.from_dict({"text": list(range(20)), "label": ["a", "b"] * 10})
        assert "'text' of 'the data set' holds no text in train: set --text-column" in refusal(load_task, numbers)


class TestRows:
    def test_ids_say_where_a_row_is(self, tmp_path):
        written = {split: labelled_rows(30, seed=seed) for seed, split in enumerate(("train", "test"))}
        for split, rows in written.items():
            write_csv(tmp_path / f"{split}.csv", rows)
        task = load_task(str(tmp_path))
        assert task["train"].column_names == ["text", "label", "id"]
        for split in SPLITS:
            for row in task[split]:
                source, number = row["id"].split("/")
                assert source == ("test" if split == "test" else "train")
                expected = written[source][int(number)]
                assert (row["text"], class_names(task)[row["label"]]) == (expected["text"], expected["label"])

    @pytest.mark.parametrize("column", ["text", "label"])
    def test_a_column_that_is_no_utf8(self, tmp_path, column):
        rows = {"text": [f"text {index}" for index in range(40)], "label": ["a", "b"] * 20}
        strings = [value.encode() for value in rows[column]]
        strings[3] = b"caf\xe9"
        rows[column] = pa.Array.from_buffers(pa.string(), 40, pa.array(strings).buffers())
        pq.write_table(pa.table(rows), tmp_path / "task.parquet")
        said = refusal(load_task, str(tmp_path / "task.parquet"))
        assert all(part in said for part in (f"{column!r}", "task.parquet", "UTF-8"))

    def test_texts_under_two_labels_are_kept_and_said(self, tmp_path, caplog):
        rows = [{"text": f"text {index // 2 if index < 6 else index}", "label": "ab"[index % 2]} for index in range(60)]
        load_task(str(write_csv(tmp_path / "twice.csv", rows)))
        assert "3 texts occur with more than one class" in note_of(caplog)

    @example(texts=[*range(25)] * 6, seed=0, layout=("train", "validation"))  # validation repeats the training rows
    @given(
        texts=st.lists(st.integers(0, 40), min_size=150, max_size=150),
        seed=st.integers(0, 3),
        layout=st.sampled_from([("train",), ("train", "test"), SPLITS, ("train", "validation")]),
    )
    def test_splits_are_disjoint_even_where_a_text_has_two_labels(self, texts, seed, layout):
        rows = [{"text": f"text {number}", "label": "ab"[index % 2]} for index, number in enumerate(texts)]
        # Texts of one class alone, so that neither class of any split is left without.
        rows += [{"text": f"own {index}", "label": "ab"[index % 2]} for index in range(60 * len(layout))]
        parts = {}
        for index, split in enumerate(layout):
            part = rows[index :: len(layout)]
            parts[split] = [{**row, "label": "ab"[(number + index) % 2]} for number, row in enumerate(part)]
        source = datasets.DatasetDict({split: datasets.Dataset.from_list(part) for split, part in parts.items()})
        task = load_task(source, seed=seed)
        chosen = {split: set(task[split]["text"]) for split in SPLITS}
        assert all(chosen.values())
        assert not chosen["train"] & chosen["test"]
        assert not chosen["train"] & chosen["validation"]
        assert not chosen["validation"] & chosen["test"]
        assert set().union(*chosen.values()) == {row["text"] for row in rows}

    def test_rows_of_a_seed_stay_from_version_to_version(self, tmp_path):
        path = write_csv(tmp_path / "task.csv", [{"text": f"{i} word", "label": "ab"[i % 2]} for i in range(200)])
        task = load_task(str(path), train_per_label=3, validation_per_label=1, test_per_label=2, seed=5)
        expected: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
        for label in (0, 1):
            order = sorted(range(label, 200, 2), key=lambda i: hashlib.sha256(f"5\0{i} word".encode()).digest())
            for split, part in (("test", order[:2]), ("validation", order[2:3]), ("train", order[3:6])):
                expected[split] += [(label, number) for number in part]
        for split, rows in expected.items():
            rows.sort(key=lambda row: hashlib.sha256(f"5-{split}\0{row[0]}\0{row[1]} word".encode()).digest())
            assert task[split]["id"][:] == [f"train/{number}" for _, number in rows]

    def test_docstrings_have_the_ids_of_their_paragraphs(self):
        task, corpus = load_task("docstrings", train_per_label=25, test_per_label=5, seed=3), load_docstrings()
        for split in SPLITS:
            paragraphs = {row["id"]: row for row in corpus[split]}
            assert len(set(task[split]["id"])) == len(task[split])
            for row in task[split]:
                paragraph = paragraphs[row["id"]]
                assert mask_names(paragraph["text"]) == row["text"]
                assert paragraph["library"] == TASK_LIBRARIES[row["label"]]
        assert per_label(task["train"]) == dict.fromkeys(TASK_LIBRARIES, 25)


class TestObjects:
    def test_a_table_object_gives_the_rows_of_its_file(self, tmp_path):
        rows = labelled_rows(40)
        of_file = load_task(str(write_csv(tmp_path / "task.csv", rows)), train_per_label=9)
        table = datasets.Dataset.from_list(rows)
        of_object = load_task(table.with_format("numpy"), train_per_label=9)
        assert task_hash(of_object) == task_hash(of_file)
        named = table.rename_columns({"text": "body", "label": "topic"}).add_column("n", list(range(len(rows))))
        assert task_hash(load_task(named, text_column="body", label_column="topic")) == task_hash(load_task(table))
        detected = load_task(datasets.DatasetDict(train=named.class_encode_column("topic")))
        assert task_hash(detected) == task_hash(load_task(table))

    def test_columns_that_cannot_be_told_and_options_without_use_are_refused(self):
        table = datasets.Dataset.from_list(labelled_rows(20))
        two = table.add_column("more", table["text"][:]).rename_column("text", "body")
        assert "--text-column" in refusal(load_task, two)
        assert "--label-column" in refusal(load_task, table.rename_column("label", "topic"))
        assert "--task-revision" in refusal(load_task, table, revision="main")


@pytest.mark.parametrize(
    ("problem_type", "label", "word"),
    [("single", "a", "class"), ("multi", "a|b", "set of labels"), ("regression", "2.5", "number")],
)
def test_a_table_whose_labels_are_all_equal_is_refused_in_words_of_its_kind(problem_type, label, word):
    rows = [{"text": f"text {row}", "label": label} for row in range(20)]
    with pytest.raises(UserError, match=f"have one {word}"):
        load_task(datasets.Dataset.from_list(rows), problem_type=problem_type)
