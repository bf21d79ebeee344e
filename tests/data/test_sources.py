"""Tables, corpora and tasks from files: what is read, who is in which split, and what is said about bad files."""

import os
import re
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import refusal
from helpers_commands import write_csv

from tlm_hf.data import sources
from tlm_hf.data.corpora import load_corpus
from tlm_hf.data.sources import Source, data_root, read_source, text_hash
from tlm_hf.data.tables import Table

ROWS = [
    {"text": 'a "quoted" text, with a comma', "label": "b"},
    {"text": "naïve café ☕", "label": "a"},
    {"text": "tab\tinside", "label": "b"},
]


class TestReadTable:
    def test_texts_of_a_file_and_of_a_folder_are_found_by_one_rule(self, tmp_path, caplog):
        caplog.set_level("INFO", "tlm_hf")

        def texts(path, unit):
            return [text.strip() for text in read_source(str(path), text_unit=unit).splits["train"]["text"]]

        (tmp_path / "book" / "inner").mkdir(parents=True)
        (tmp_path / "book" / "empty.txt").touch()
        book = "one\nparagraph\n\nanother\n\n"
        (tmp_path / "book.txt").write_text(book, encoding="utf-8")
        (tmp_path / "book" / "inner" / "b.txt").write_text(book, encoding="utf-8")
        (tmp_path / "lines.txt").write_text("\none\ntwo\n\n", encoding="utf-8")
        for path in (tmp_path / "book.txt", tmp_path / "book"):
            assert texts(path, None) == ["one\nparagraph", "another"]
            assert "each paragraph is a text" in caplog.text
            assert [text for text in texts(path, "line") if text] == ["one", "paragraph", "another"]
            caplog.clear()
        assert [text for text in texts(tmp_path / "lines.txt", None) if text] == ["one", "two"]
        assert "each line is a text" in caplog.text

    def test_bad_files_are_refused_in_one_sentence(self, tmp_path):
        bad = {
            "empty.csv": b"",
            "header.csv": b"text,label\n",
            "broken.json": b'[{"text": ',
            "empty.jsonl": b"[]",
            "letter.docx": b"PK",
        }
        for name, content in bad.items():
            (tmp_path / name).write_bytes(content)
            assert name in refusal(read_source, str(tmp_path / name)), name
        assert "has no rows" in refusal(read_source, str(tmp_path / "header.csv"))
        assert ".docx" in refusal(read_source, str(tmp_path / "letter.docx"))
        for name, file in (("nothing", None), ("pictures", "a.png"), ("hollow", "a.txt")):
            (tmp_path / name).mkdir()
            if file is not None:
                (tmp_path / name / file).touch()
            assert name in refusal(read_source, str(tmp_path / name))

    @pytest.mark.parametrize("ending", ["csv", "txt", "parquet"])
    @pytest.mark.parametrize("in_folder", [False, True])
    def test_a_file_replaced_by_one_of_the_same_time_and_size(self, tmp_path, ending, in_folder):
        """`datasets` tells files by path and time alone."""
        path = tmp_path / "set" / f"train.{ending}"
        path.parent.mkdir()
        name = str(path.parent if in_folder else path)
        for word in ("old", "new"):
            texts = [f"{word} text {index}" for index in range(30)]
            if ending == "parquet":
                pq.write_table(pa.table({"text": texts}), path)
            else:
                path.write_text("\n".join(["text", *texts] if ending == "csv" else texts) + "\n", encoding="utf-8")
            os.utime(path, ns=(10**18, 10**18))
            assert read_source(name).splits["train"]["text"][:] == texts

    @pytest.mark.parametrize("name", ["missing.csv", "/missing/folder", "./missing", "a/b/c", "~/missing-for-sure"])
    def test_missing_names_are_refused(self, name):
        assert repr(name) in refusal(read_source, name)


def test_hash_depends_on_every_boundary():
    assert len({text_hash(texts) for texts in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["ab", "c", ""])}) == 5


@pytest.mark.parametrize("given", [True, False], ids=["option", "variable"])
def test_a_data_root_that_is_no_folder_is_named(tmp_path, monkeypatch, given):
    root = str(tmp_path / "nowhere")
    monkeypatch.setenv("TLM_DATA", root)
    words = f"{'--data-root' if given else 'TLM_DATA'} is {root}, which is not a folder"
    assert re.search(words, refusal(load_corpus, "wikipedia", root=root if given else None))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "texts").mkdir()
    assert data_root("~/texts") == tmp_path / "texts"


def test_files_of_a_folder_that_are_of_no_split_are_named(tmp_path, caplog):
    for name in ("train.csv", "test.csv", ".ipynb_checkpoints/train-checkpoint.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_csv(tmp_path / name, ROWS)
    assert {split: len(rows) for split, rows in read_source(str(tmp_path)).splits.items()} == {"train": 3, "test": 3}
    assert not caplog.text
    (tmp_path / "classes.txt").write_text("a\nb\n")
    write_csv(tmp_path / "extra.csv", ROWS)
    assert len(read_source(str(tmp_path)).splits["train"]) == 3
    assert "not read, for their names tell no split: classes.txt, extra.csv" in caplog.text


@pytest.mark.parametrize("folder", ["train_test_split", "proj [2024]", "a*"])
@pytest.mark.parametrize("bytes_in_memory", [0, 2**23])
def test_a_folder_is_not_a_split_or_a_pattern_by_its_name(tmp_path, monkeypatch, folder, bytes_in_memory):
    monkeypatch.setattr(sources, "IN_MEMORY", bytes_in_memory)
    for name in ("train", "test"):
        (tmp_path / folder).mkdir(exist_ok=True)
        pd.DataFrame({"text": [name], "label": ["a"]}).to_parquet(tmp_path / folder / f"{name}.parquet")
    splits = read_source(str(tmp_path)).splits
    assert {split: rows["text"][:] for split, rows in splits.items()} == {"train": ["train"], "test": ["test"]}


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train_test_split/test.csv", "test"),
        ("training_data/test.csv", "test"),
        ("fold-train/evaluation_of_products.csv", "train"),
        ("data/test-00000-of-00001.csv", "test"),
        ("test/part-0.csv", "test"),
        ("a/b.csv", None),
    ],
)
def test_the_split_of_a_file(path, split):
    assert sources._split_of_file(Path(path)) == split


@pytest.mark.parametrize("bytes_in_memory", [0, 2**23])
def test_parquet_files_of_one_table_may_differ_in_form(tmp_path, monkeypatch, bytes_in_memory):
    monkeypatch.setattr(sources, "IN_MEMORY", bytes_in_memory)
    first = pa.schema([pa.field("text", pa.string()), pa.field("label", pa.int64(), nullable=False)])
    second = pa.schema([pa.field("label", pa.int32()), pa.field("text", pa.large_string())])
    for place, schema in enumerate((first, second)):
        pq.write_table(pa.Table.from_pylist([{"text": "a", "label": place}], schema), tmp_path / f"{place}.parquet")
    assert read_source(str(tmp_path)).splits["train"]["label"][:] == [0, 1]


@pytest.mark.parametrize("split", ["test", "train-1"])
def test_classes_that_have_other_numbers_in_another_file_are_refused(tmp_path, split):
    for file, names in (("train-0", ["cat", "dog"]), (split, ["dog", "cat"])):
        label = datasets.ClassLabel(names=names)
        features = datasets.Features({"text": datasets.Value("string"), "label": label})
        rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
        rows.to_parquet(str(tmp_path / f"{file}.parquet"))
    assert "give different names to the numbers of 'label'" in refusal(read_source, str(tmp_path))
    splits = datasets.DatasetDict(train=rows, test=rows.cast_column("label", datasets.ClassLabel(names=["cat", "dog"])))
    assert "give different names to the numbers" in refusal(Table.open, Source(splits), "set", None, "label")


@pytest.mark.parametrize(
    ("names", "read", "unread"),
    [
        (
            ("train", "dev", "test", "unsupervised"),
            {"train": "train", "validation": "dev", "test": "test"},
            "unsupervised",
        ),
        (("dev", "validation", "train"), {"train": "train", "validation": "validation"}, "dev"),
        (("train_r1", "train_r2", "test_r1"), {"train": "train_r1", "test": "test_r1"}, "train_r2"),
        (("eval", "a"), {"test": "eval"}, "a"),
        (("val",), {"train": "val"}, None),
        (("a", "b"), {"train": "a"}, "b"),
    ],
)
def test_splits_of_a_data_set_are_known_by_their_usual_names(names, read, unread, caplog):
    rows = {name: datasets.Dataset.from_dict({"text": [name], "label": [1]}) for name in names}
    table = Table.open(Source(datasets.DatasetDict(rows)), "set", None, "label")
    assert {split: of_split["text"][0] for split, of_split in table.source.splits.items()} == read
    assert (f"that are not read: {unread}." in caplog.text) == (unread is not None)


def test_excel_has_its_names_in_the_first_row_with_a_cell(tmp_path):
    for names in (["text ", "label"], ["text", "text"]):
        file = tmp_path / f"{names[1]}.xlsx"
        rows = [[None, None], names, ["a", "b"], ["c", None]]
        pd.DataFrame(rows).to_excel(file, header=False, index=False)
    source = read_source(str(tmp_path / "label.xlsx"))
    assert source.splits["train"].to_list() == [{"text": "a", "label": "b"}, {"text": "c", "label": None}]
    assert source.place("train", 1).startswith("row 4 of")
    assert "two columns 'text'" in refusal(read_source, str(tmp_path / "text.xlsx"))
