"""Tasks: labels of any table, what is left out and counted, ids and facts, titles.

Oracles: the rows that the test wrote, with plain Python sets and counters; a plain reading of the docstring corpus.
"""

import collections
import hashlib
import json
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_commands import labelled_rows, write_csv
from hypothesis import given
from hypothesis import strategies as st

from tlm_hf.data.docstrings import TASK_LIBRARIES, load_docstrings, mask_names
from tlm_hf.data.sources import facts_of
from tlm_hf.data.tables import KNOWN
from tlm_hf.data.tasks import SPLITS, class_names, load_task, task_hash
from tlm_hf.errors import UserError

DATA = os.environ.get("TLM_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="TLM_DATA is not set: no real text to read")


def refusal(one_sentence, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_task(*arguments, **options)
    return one_sentence(caught.value)


def table(path: Path, labels: list, features=None, text="text") -> str:
    """A parquet file of the texts `0 ...`, `1 ...` with these labels."""
    rows = {text: [f"{index} word" for index in range(len(labels))], "label": labels}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return str(path)


def labels_by_number(task) -> dict[int, str]:
    """The name of the label of each row by the number at the start of its text."""
    names = class_names(task)
    return {int(row["text"].split()[0]): names[row["label"]] for split in SPLITS for row in task[split]}


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "names"),
        [
            ([True, False], ["False", "True"]),
            ([1.0, 0.0], ["0", "1"]),
            ([10.0, 9.0, -2.0], ["-2", "9", "10"]),
            ([10, 9, 100], ["9", "10", "100"]),
            (["b", "a", "NA"], ["NA", "a", "b"]),
        ],
    )
    def test_values_become_names_in_sorted_order(self, tmp_path, labels, names):
        labels = [labels[index % len(labels)] for index in range(60)]
        shown = [str(int(label)) if isinstance(label, float) else str(label) for label in labels]
        for file in (table(tmp_path / "a.parquet", labels), str(tmp_path / "a.csv")):
            if file.endswith("csv"):
                write_csv(Path(file), [{"text": f"{index} word", "label": label} for index, label in enumerate(labels)])
            task = load_task(file)
            assert class_names(task) == names
            assert labels_by_number(task) == dict(enumerate(shown))

    @pytest.mark.parametrize("kind", [str, int, float, bool])
    @pytest.mark.parametrize("hole", [None, float("nan"), " "])
    def test_an_empty_label_or_text_is_left_out_and_counted(self, tmp_path, caplog, kind, hole):
        values = {str: "ab", int: [4, 5], float: [4.0, 5.0], bool: [False, True]}[kind]
        rows = [{"text": f"{index} word", "label": values[index % 2]} for index in range(40)]
        rows[7]["label"] = hole if hole != " " or kind is str else None
        rows[9]["text"], rows[12]["text"] = None, "  "
        rows[13]["text"] = rows[15]["text"]
        path = tmp_path / "holes.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows).replace("NaN", "null"), encoding="utf-8")
        task = load_task(str(path))
        assert set(labels_by_number(task)) == set(range(40)) - {7, 9, 12, 13}
        expected = {"duplicates": 1, "empty label": 1, "empty text": 2}
        assert [facts_of(task[split])["dropped"] for split in SPLITS] == [expected] * 3
        (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("tlm_hf")]
        assert "holes.jsonl" in said
        assert "left out 1 (duplicates), 1 (empty label), 2 (empty text)" in said

    def test_nan_in_parquet_is_an_empty_label(self, tmp_path):
        task = load_task(table(tmp_path / "a.parquet", [1.0, 2.0] * 20 + [float("nan")]))
        assert class_names(task) == ["1", "2"]
        assert facts_of(task["train"])["dropped"] == {"empty label": 1}

    @pytest.mark.parametrize(
        ("missing", "rows", "refused"), [(1, 9, False), (2, 19, True), (4, 40, False), (5, 40, True)]
    )
    def test_many_empty_labels_are_refused(self, tmp_path, one_sentence, missing, rows, refused):
        labels = ["ab"[index % 2] for index in range(rows - missing)]
        path = table(tmp_path / "gaps.parquet", [*labels[:3], *[None] * missing, *labels[3:]])
        if refused:
            said = refusal(one_sentence, path)
            for part in ("'label'", "gaps.parquet", "empty cell", f"{missing} of {rows}", "row 3"):
                assert part in said
        else:
            options = {"validation_per_label": 1, "test_per_label": 1}
            assert facts_of(load_task(path, **options)["train"])["dropped"] == {"empty label": missing}

    def test_unlabelled_rows_of_a_class_label(self, tmp_path, one_sentence):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])})
        task = load_task(table(tmp_path / "a.parquet", [0, 1] * 20 + [-1], features))
        assert class_names(task) == ["z", "a"]
        assert facts_of(task["train"])["dropped"] == {"empty label": 1}
        folder = tmp_path / "task"
        folder.mkdir()
        table(folder / "train.parquet", [0, 1] * 20, features)
        table(folder / "test.parquet", [-1] * 20, features)
        assert "20 of 20 rows of test" in refusal(one_sentence, str(folder))

    @pytest.mark.parametrize(
        ("labels", "said"), [([0.5, 1.0], "0.5"), ([float("inf"), 1.0], "inf"), ([["a"], ["b"]], "['a']")]
    )
    def test_other_values_are_refused(self, tmp_path, one_sentence, labels, said):
        sentence = refusal(one_sentence, table(tmp_path / "odd.parquet", labels * 20))
        assert said in sentence
        assert "integers or names" in sentence

    def test_labels_that_a_known_task_does_not_have(self, tmp_path, one_sentence):
        for labels in ([0, 1, 2, 3, 4], [1, 0, 4.5], ["World", "Sports"], [[0], [1]]):
            path = table(tmp_path / "news.parquet", labels * 8)
            assert "none of 0 to 3" in refusal(one_sentence, "ag_news", path=path, train_per_label=1, test_per_label=1)

    def test_a_column_of_numbers_is_no_text(self, tmp_path, one_sentence):
        path = write_csv(tmp_path / "numbers.csv", [{"text": index, "label": "ab"[index % 2]} for index in range(20)])
        assert "holds no text" in refusal(one_sentence, str(path))


class TestRows:
    def test_ids_say_where_a_row_stands(self, tmp_path):
        written = {split: labelled_rows(30, seed=seed) for seed, split in enumerate(("train", "test"))}
        for split, rows in written.items():
            write_csv(tmp_path / f"{split}.csv", rows)
        task = load_task(str(tmp_path))
        assert task["train"].column_names == ["text", "label", "id"]
        for split in SPLITS:
            for row in task[split]:
                source, number = row["id"].split("/")
                assert source == ("test" if split == "test" else "train")
                found = written[source][int(number)]
                assert (row["text"], class_names(task)[row["label"]]) == (found["text"], found["label"])

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
    def test_ids_of_the_source_are_kept_through_a_second_reading(self, tmp_path, kind):
        labels = ["ab"[index % 2] for index in range(60)]
        first = load_task(table(tmp_path / "first.parquet", labels), train_per_label=5)
        folder = tmp_path / "second"
        folder.mkdir()
        for split in SPLITS:
            rows = pa.Table.from_pylist(first[split].to_list())
            pq.write_table(rows.set_column(2, "id", rows["id"].cast(kind)), folder / f"{split}.parquet")
        second = load_task(str(folder))
        for split in SPLITS:
            assert dict(zip(second[split]["text"], second[split]["id"], strict=True)) == {
                row["text"]: f"train/{row['text'].split()[0]}" for row in first[split]
            }

    @pytest.mark.parametrize("ids", [["same"] * 40, [None, *(f"b{index}" for index in range(39))], list(range(40))])
    def test_ids_that_tell_no_rows_apart_are_not(self, tmp_path, ids):
        rows = {"text": [f"{index} word" for index in range(40)], "label": ["a", "b"] * 20, "id": ids}
        pq.write_table(pa.table(rows), tmp_path / "task.parquet")
        for split in load_task(str(tmp_path / "task.parquet")).values():
            assert split["id"][:] == [f"train/{text.split()[0]}" for text in split["text"]]

    def test_ids_that_two_splits_share_are_not_kept(self, tmp_path):
        for split in ("train", "test"):
            rows = {"text": [f"{index} {split}" for index in range(40)], "label": ["a", "b"] * 20}
            pq.write_table(pa.table({**rows, "id": [str(i) for i in range(40)]}), tmp_path / f"{split}.parquet")
        task = load_task(str(tmp_path))
        assert {place.split("/")[0] for place in task["test"]["id"]} == {"test"}
        assert {place.split("/")[0] for place in task["train"]["id"]} == {"train"}

    @pytest.mark.parametrize("column", ["text", "label", "title"])
    def test_a_column_that_is_no_utf8(self, tmp_path, one_sentence, column):
        rows = {name: [f"{name} {index % 2} {index}" for index in range(40)] for name in ("text", "title")}
        rows["label"] = ["a", "b"] * 20
        strings = [value.encode() for value in rows[column]]
        strings[3] = b"caf\xe9"
        rows[column] = pa.Array.from_buffers(pa.string(), 40, pa.array(strings).buffers())
        pq.write_table(pa.table(rows), tmp_path / "task.parquet")
        said = refusal(one_sentence, str(tmp_path / "task.parquet"), title_column="title")
        for part in (f"{column!r}", "task.parquet", "UTF-8"):
            assert part in said

    def test_texts_under_two_labels_are_kept_and_said(self, tmp_path, caplog):
        rows = [{"text": f"text {index // 2 if index < 6 else index}", "label": "ab"[index % 2]} for index in range(60)]
        task = load_task(str(write_csv(tmp_path / "twice.csv", rows)))
        assert facts_of(task["test"])["texts_with_two_labels"] == 3
        (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("tlm_hf")]
        assert "twice.csv" in said
        assert "3 texts of the source have more than one label" in said

    def test_facts_reproduce_a_split(self, tmp_path):
        path = write_csv(tmp_path / "task.csv", labelled_rows(40))
        task = load_task(str(path), train_per_label=5, test_per_label=4, seed=7)
        facts = {split: facts_of(task[split]) for split in SPLITS}
        assert [facts[split]["split_name"] for split in SPLITS] == list(SPLITS)
        assert [facts[split]["per_label"] for split in SPLITS] == [
            {"farm": size, "sea": size} for size in (5, round(0.15 / 0.85 * 36), 4)
        ]
        found = facts["train"]
        assert (found["source"], found["task"], found["seed"]) == ("task.csv", "task.csv", 7)
        assert found["revision"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert found["asked_per_label"] == {"train": 5, "validation": None, "test": 4}
        assert found["columns"] == {"text": "text", "label": "label", "title": None}
        assert (found["dropped"], found["texts_with_two_labels"]) == ({}, 0)

    def test_folder_is_named_by_its_files(self, tmp_path):
        for split in ("train", "test"):
            write_csv(tmp_path / f"{split}.csv", labelled_rows(30, seed=len(split)))
        files = sorted(tmp_path.iterdir())
        lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
        expected = hashlib.sha256(lines.encode()).hexdigest()
        assert facts_of(load_task(str(tmp_path))["test"])["revision"] == f"sha256:{expected}"

    @given(
        texts=st.lists(st.integers(0, 40), min_size=150, max_size=150),
        seed=st.integers(0, 3),
        layout=st.sampled_from(
            [("train",), ("train", "test"), ("train", "validation", "test"), ("train", "validation")]
        ),
    )
    def test_splits_are_disjoint_even_where_a_text_has_two_labels(self, tmp_path_factory, texts, seed, layout):
        folder = tmp_path_factory.mktemp("twice")
        rows = [{"text": f"text {number}", "label": "ab"[index % 2]} for index, number in enumerate(texts)]
        # Texts of one class alone, so that neither class of any split is left without.
        rows += [{"text": f"own {index}", "label": "ab"[index % 2]} for index in range(60 * len(layout))]
        parts = {split: rows[index :: len(layout)] for index, split in enumerate(layout)}
        for index, split in enumerate(layout):
            parts[split] = [{**row, "label": "ab"[(number + index) % 2]} for number, row in enumerate(parts[split])]
            write_csv(folder / f"{split}.csv", parts[split])
        task = load_task(str(folder), seed=seed)
        found = {split: set(task[split]["text"]) for split in SPLITS}
        assert not found["train"] & found["test"]
        assert not found["train"] & found["validation"]
        assert not found["validation"] & found["test"]
        assert set().union(*found.values()) == {row["text"] for row in rows}
        labels = collections.defaultdict(set)
        for row in (row for part in parts.values() for row in part):
            labels[row["text"]].add(row["label"])
        facts = facts_of(task["train"])
        assert facts["texts_with_two_labels"] == sum(len(names) == 2 for names in labels.values())
        assert len(rows) - sum(facts["dropped"].values()) == sum(len(task[split]) for split in SPLITS)

    def test_rows_of_a_seed_stay_from_version_to_version(self, tmp_path):
        path = write_csv(tmp_path / "task.csv", [{"text": f"{i} word", "label": "ab"[i % 2]} for i in range(200)])
        task = load_task(str(path), train_per_label=3, validation_per_label=1, test_per_label=2, seed=5)

        def order(numbers, seed, label=""):
            return sorted(numbers, key=lambda i: hashlib.sha256(f"{seed}\0{label}{i} word".encode()).digest())

        wanted: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
        for label in (0, 1):
            numbers = order(range(label, 200, 2), 5)
            for split, part in (("test", numbers[:2]), ("validation", numbers[2:3]), ("train", numbers[3:6])):
                wanted[split] += [(label, number) for number in part]
        for split, rows in wanted.items():
            rows.sort(key=lambda row: hashlib.sha256(f"5-{split}\0{row[0]}\0{row[1]} word".encode()).digest())
            assert task[split]["id"][:] == [f"train/{number}" for _, number in rows]

    def test_another_process_chooses_the_same_ids(self, tmp_path, run_with_package):
        path = write_csv(tmp_path / "task.csv", labelled_rows(40))
        code = """
import json, sys, datasets
from tlm_hf.data.sources import facts_of
from tlm_hf.data.tasks import load_task
datasets.disable_progress_bars()
task = load_task(sys.argv[1], seed=1)
print(json.dumps([[task[split]["id"][:], facts_of(task[split])] for split in task]))
"""
        task = load_task(str(path), seed=1)
        assert run_with_package(code, str(path)) == [[task[split]["id"][:], facts_of(task[split])] for split in task]

    def test_docstrings_have_the_ids_of_their_paragraphs(self):
        task, corpus = load_task("docstrings", train_per_label=25, test_per_label=5, seed=3), load_docstrings()
        for split in SPLITS:
            known = {row["id"]: row for row in corpus[split]}
            assert len(set(task[split]["id"])) == len(task[split])
            for row in task[split]:
                found = known[row["id"]]
                assert mask_names(found["text"]) == row["text"]
                assert found["library"] == TASK_LIBRARIES[row["label"]]
        facts = facts_of(task["train"])
        assert facts["asked_per_label"] == {"train": 25, "validation": 40, "test": 5}
        assert facts["per_label"] == dict.fromkeys(TASK_LIBRARIES, 25)
        assert facts["revision"].startswith("sha256:")


class TestTitles:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        for split, size in (("train", 300), ("test", 200)):
            rows = [
                {"title": f" Title {index} ", "content": f"{split} content {index}", "label": index % 14}
                for index in range(size)
            ]
            datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / f"{split}.parquet"))
        return tmp_path

    def test_title_comes_before_the_text_of_the_same_rows(self, folder):
        options = {"path": str(folder), "train_per_label": 5, "validation_per_label": 2, "test_per_label": 5}
        plain = load_task("dbpedia_14", **options)
        titled = load_task("dbpedia_14", title_column="title", **options)
        assert class_names(plain) == list(KNOWN["dbpedia_14"].labels)
        assert facts_of(titled["train"])["columns"] == {"text": "content", "label": "label", "title": "title"}
        for split in SPLITS:
            assert plain[split]["id"][:] == titled[split]["id"][:]
            for row, with_title in zip(plain[split], titled[split], strict=True):
                number = row["text"].split()[-1]
                assert with_title["text"] == f"Title {number} {row['text']}"
        assert task_hash(plain) != task_hash(titled)

    def test_a_few_missing_titles_leave_the_text_alone_and_many_are_refused(self, folder, one_sentence):
        path = folder / "test.parquet"
        rows = datasets.Dataset.from_parquet(str(path)).to_list()
        for missing, refused in ((1, False), (20, False), (21, True)):
            changed = [{**row, "title": " " if index < missing else row["title"]} for index, row in enumerate(rows)]
            datasets.Dataset.from_list(changed).to_parquet(str(path))
            options = {"path": str(folder), "title_column": "title", "all_rows": True}
            if refused:
                said = refusal(one_sentence, "dbpedia_14", **options)
                for part in ("'title'", "dbpedia_14", "21 of 200 rows of test", "--title-column"):
                    assert part in said
            else:
                texts = load_task("dbpedia_14", **options)["test"]["text"]
                assert sum(text.startswith("test content") for text in texts) == missing

    def test_no_such_column(self, folder, one_sentence):
        assert "'name'" in refusal(one_sentence, "dbpedia_14", path=str(folder), title_column="name")

    @needs_data
    def test_the_local_copy_has_titles_in_one_split_alone(self, one_sentence):
        said = refusal(one_sentence, "dbpedia_14", root=DATA, title_column="title")
        assert "10151 of 10151 rows of train" in said
