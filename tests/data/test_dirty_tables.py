"""Tables as people have them, as `tlm train-committee` reads them: the right classes and rows, or one sentence."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from conftest import refusal
from helpers_commands import write_csv, write_splits

from tlm_hf.data.kinds import class_names
from tlm_hf.data.sources import read_source
from tlm_hf.data.tables import OTHER
from tlm_hf.data.task_options import TextFormat
from tlm_hf.errors import UserError
from tlm_hf.training.train_committee import _load_data
from tlm_hf.training.train_committee_options import OwnDataArguments

ROWS = [{"text": f"text number {index}, with a comma", "label": ("neg", "pos")[index % 2]} for index in range(40)]
FRAME = pd.DataFrame(ROWS)
CSV = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)


def labelled(*labels: str) -> list[dict]:
    """Ten rows of each label."""
    return [{"text": f"text {number} of {label!a}", "label": label} for label in labels for number in range(10)]


def load(path: Path, **options):
    return _load_data(path, OwnDataArguments(**options))


def classes_of(task) -> Counter:
    names = class_names(task)
    return Counter(names[row["label"]] for split in task.values() for row in split)


def with_quotation_mark(path: Path) -> None:
    lines = [f"text number {index}\t{('neg', 'pos')[index % 2]}" for index in range(40)]
    lines[3], lines[9] = '"a mark that is not closed\tpos', 'here " is the next one\tpos'
    path.write_text("\n".join(["text\tlabel", *lines]), encoding="utf-8")


def two_splits(folder: Path, *labels: str) -> None:
    rows = labelled(*labels)
    write_splits(folder, train=rows, test=[{**row, "text": f"more {row['text']}"} for row in rows])


def with_card(folder: Path) -> None:
    folder.mkdir()
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: rows.csv\n---\n"
    (folder / "README.md").write_text(card)
    write_csv(folder / "rows.csv", labelled("007", "7", "NA", "None"))


def write_json(path: Path, document) -> None:
    path.write_text(json.dumps(document))


READ = {
    "zeros.csv": (lambda path: write_csv(path, labelled("007", "7", "9", "07")), ["007", "07", "7", "9"], 40),
    "blanks.csv": (lambda path: write_csv(path, labelled("neg", "neg ", "pos", " pos")), ["neg", "pos"], 40),
    "cases.csv": (lambda path: write_csv(path, labelled("neg", "Neg", "pos")), ["Neg", "neg", "pos"], 30),
    "forms.csv": (lambda path: write_csv(path, labelled("caf\u00e9", "cafe\u0301", "tea")), ["caf\u00e9", "tea"], 30),
    "none.csv": (lambda path: write_csv(path, labelled("None", "NA", "null")), ["NA", "None", "null"], 30),
    "none-in-a-folder": (lambda path: two_splits(path, "None", "NA"), ["NA", "None"], 40),
    "folder-with-a-card": (with_card, ["007", "7", "NA", "None"], 40),
    "quoted.tsv": (lambda path: write_csv(path, ROWS, delimiter="\t"), ["neg", "pos"], 40),
    "commas.tsv": (lambda path: FRAME.assign(**{"a, b, c, d": 1}).to_csv(path, sep="\t"), ["neg", "pos"], 40),
    "semicolon.csv": (lambda path: write_csv(path, ROWS, delimiter=";"), ["neg", "pos"], 40),
    "tabs.csv": (lambda path: write_csv(path, ROWS, delimiter="\t"), ["neg", "pos"], 40),
    "excel-unicode.csv": (lambda path: path.write_text(CSV, encoding="utf-16"), ["neg", "pos"], 40),
    "excel-utf8.csv": (lambda path: path.write_text(CSV, encoding="utf-8-sig"), ["neg", "pos"], 40),
    "CAPITALS.CSV": (lambda path: path.write_text(CSV), ["neg", "pos"], 40),
    "packed.csv.gz": (lambda path: path.write_bytes(gzip.compress(CSV.encode())), ["neg", "pos"], 40),
    "book.xlsx": (lambda path: FRAME.assign(label=["007", "7"] * 20).to_excel(path, index=False), ["007", "7"], 40),
    "with-index.csv": (lambda path: FRAME.to_csv(path), ["neg", "pos"], 40),
    "windows.csv": (lambda path: path.write_bytes(CSV.replace("\n", "\r\n\r\n").encode()), ["neg", "pos"], 40),
    "to_json.json": (lambda path: FRAME.to_json(path), ["neg", "pos"], 40),
    "data.json": (lambda path: write_json(path, {"data": ROWS}), ["neg", "pos"], 40),
    "huge.json": (
        lambda path: write_json(path, [{**row, "label": 10 ** (20 * (row["label"] == "neg"))} for row in ROWS]),
        ["1", "1" + "0" * 20], 40,
    ),
}  # fmt: skip
REFUSED = {
    "comma.csv": (lambda path: path.write_text(CSV.replace('comma",neg', 'comma",5,neg', 1)), ["line 2", "3 cells"]),
    "short.csv": (lambda path: path.write_text(CSV + "a text alone\n"), ["line 42", "1 cells"]),
    "mark.tsv": (with_quotation_mark, ["line 5", "--quoting none"]),
    "open.csv": (lambda path: path.write_text(CSV + '"a text,neg\nanother,pos\n'), ["line 42", "quotation marks"]),
    "wide.csv": (lambda path: path.write_text("body," + "z" * 99999 + "\na,b\n"), ["'text'", "body, zzz"]),
    "long-names.csv": (lambda path: write_csv(path, labelled("b", "a" * 9999)[:11]), ["'aaa", "at least 4"]),
    "twice.csv": (lambda path: path.write_text("text,label,text\na,b,c\n"), ["'text'"]),
    "latin.csv": (lambda path: path.write_text(CSV.replace("comma", "caf\u00e9"), "cp1252"), ["cp1252", "line 2"]),
    "rare.csv": (
        lambda path: write_csv(path, [*labelled(*"abcdefgh"), *labelled("rare")[:3]]),
        ["'rare'", "at least 4", "--drop-rare-classes", "--merge-rare-classes"],
    ),
    "nested.json": (lambda path: write_json(path, [{"text": "a", "label": {"x": "y" * 9999}}] * 9), ["'label'"]),
    "split.json": (lambda path: FRAME.to_json(path, orient="split"), ["Record 1", "orient='records'"]),
    "emoji.json": (lambda path: write_json(path, [{"text": "\ud83d", "label": "a"}]), ["'text'", "emoji"]),
    "mixed.json": (lambda path: write_json(path, [{"text": "a", "label": 1}, {"text": "b", "label": "c"}]), ["int"]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_can_be_read_has_the_right_classes_and_rows(name, tmp_path):
    write, classes, rows = READ[name]
    write(tmp_path / name)
    task = load(tmp_path / name)
    assert class_names(task) == classes
    counts = classes_of(task)
    assert counts.total() == rows
    assert set(counts.values()) == {rows // len(classes)} or name == "forms.csv"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_is_refused_in_one_sentence(name, tmp_path):
    write, words = REFUSED[name]
    write(tmp_path / name)
    said = refusal(load, tmp_path / name)
    assert name in said
    assert len(said) < 600
    assert all(word in said.lower() for word in (word.lower() for word in words))


def test_what_was_joined_or_guessed_is_said(tmp_path, caplog):
    for name, word in (
        ("blanks.csv", "'neg '"), ("forms.csv", "e\\u0301"), ("semicolon.csv", "';'"),
        ("data.json", "as a DataFrame"),
        ("cases.csv", "differ in case alone are classes of their own (spell alike what is one): Neg, neg."),
    ):  # fmt: skip
        caplog.clear()
        READ[name][0](tmp_path / name)
        load(tmp_path / name)
        assert word in caplog.text
    tags = [{**row, "label": ("a|b", "a", "")[place % 3]} for place, row in enumerate(ROWS)]
    load(write_csv(tmp_path / "tags.csv", tags), problem_type="multi")
    assert "13 texts have no label" in caplog.text
    amounts = write_csv(tmp_path / "amounts.csv", [{**row, "label": "1,5"} for row in ROWS])
    assert "decimal point" in refusal(load, amounts, problem_type="regression")
    caplog.clear()
    load(write_csv(tmp_path / "clean.csv", ROWS))
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "quoting", "rows"),
    [
        ("a.tsv", "auto", "Line 3"),
        ("a.tsv", "csv", [["one", "x"], ["two\nof\tthree\tlines", "y"]]),
        ("b.tsv", "auto", "Line 2"),
        ("b.tsv", "csv", [["a\tx\nb", "y"]]),
        ("b.tsv", "none", [['"a', "x"], ['b"', "y"]]),
        ("c.csv", "auto", [["a,x\nb", "y"]]),
        ("c.csv", "none", [['"a', "x"], ['b"', "y"]]),
        ("d.csv", "auto", "Line 2"),
    ],
)
def test_quotation_marks_can_be_marks_or_text(tmp_path, name, quoting, rows):
    content = {
        "a.tsv": 'one\tx\n"two\nof\tthree\tlines"\ty\n', "b.tsv": '"a\tx\nb"\ty\n', "c.csv": '"a,x\nb",y\n',
        "d.csv": ' "one, two", "x"\nthree, y\n',
    }[name]  # fmt: skip
    (tmp_path / name).write_text(("text\tlabel\n" if name.endswith("tsv") else "text,label\n") + content)
    if isinstance(rows, str):
        assert rows in refusal(read_source, str(tmp_path / name), written=TextFormat(quoting=quoting))
        return
    table = read_source(str(tmp_path / name), written=TextFormat(quoting=quoting)).splits["train"]
    assert [list(row.values()) for row in table] == rows


def test_texts_of_any_encoding(tmp_path):
    """Python's codecs write the files. A line of blanks ends a paragraph."""
    (tmp_path / "latin.csv").write_text(CSV.replace("comma", "caf\u00e9"), encoding="cp1252")
    assert all("caf\u00e9" in text for text in load(tmp_path / "latin.csv", encoding="cp1252")["train"]["text"])
    text = "na\u00efve\nlines\n \t\nanother\n"
    for name, encoding, given in (
        ("excel.txt", "utf-16", None), ("old.txt", "cp1252", "cp1252"), ("be.txt", "utf-16-be", "utf-16-be"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text, encoding=encoding)
        for unit, texts in ((None, ["na\u00efve\nlines", "another"]), ("line", text.splitlines())):
            source = read_source(str(tmp_path / name), written=TextFormat(encoding=given), text_unit=unit)
            assert source.splits["train"]["text"][:] == texts
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert read_source(str(tmp_path / "packed.txt.gz")).splits["train"]["text"][:] == text.splitlines()
    (tmp_path / "zeros.txt").write_text("plain", encoding="utf-16-be")
    for name, words in (("old.txt", ("line 1", "--encoding")), ("zeros.txt", ("zero bytes",))):
        assert all(word in refusal(read_source, str(tmp_path / name)) for word in (name, *words))
    for given in ({"encoding": "no-such-encoding"}, {"encoding": "hex"}, {"quoting": "some"}):
        assert f"--{next(iter(given))}" in refusal(TextFormat, **given)


def test_a_data_frame_is_read_as_json_is():
    texts = [row["text"] for row in ROWS]
    task = load(pd.DataFrame({"text": texts, "label": [10**20, 5] * 20}))
    assert classes_of(task) == {"5": 20, "1" + "0" * 20: 20}
    assert "'label'" in refusal(load, pd.DataFrame({"text": texts, "label": ["a", 1] * 20}))


def test_a_byte_order_mark_is_no_letter(tmp_path):
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_text("text\nriver\n", encoding="utf-8-sig")
        for encoding in (None, "utf-8"):
            table = read_source(str(tmp_path / name), written=TextFormat(encoding=encoding)).splits["train"]
            assert table["text"][:] == (["text", "river"] if name == "a.txt" else ["river"])


def test_files_of_a_folder_must_have_the_same_columns(tmp_path):
    write_csv(tmp_path / "a.csv", ROWS[:20])
    write_csv(tmp_path / "b.csv", [{"body": row["text"], "label": row["label"]} for row in ROWS[20:]])
    assert all(part in refusal(load, tmp_path) for part in ("b.csv", "body", "text"))


def test_rare_classes_are_left_out_or_merged(tmp_path, caplog):
    path = write_csv(tmp_path / "rare.csv", [*labelled("a", "b"), *labelled("c")[:4], *labelled("d")[:2]])
    assert classes_of(load(path, drop_rare_classes=5)) == {"a": 10, "b": 10}
    assert classes_of(load(path, merge_rare_classes=5)) == {"a": 10, "b": 10, OTHER: 6}
    task = load(path, drop_rare_classes=3, merge_rare_classes=10)
    assert "2 (rare class)" in caplog.text
    assert classes_of(task) == {"a": 10, "b": 10, OTHER: 4}
    assert "c" in caplog.text
    with pytest.raises(UserError, match="two classes"):
        load(path, drop_rare_classes=11)


def test_other_columns_stay_as_they_are_and_rows_are_numbered_as_an_editor_shows_them(tmp_path):
    records = [{"id": 1234567890123456789, "day": "2024-05-01", "score": 0.12345678901234}, {"id": None, "day": "x"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(records[0]) + "\n\n" + json.dumps(records[1]) + "\n")
    source = read_source(str(path))
    assert source.splits["train"].to_list() == [records[0], {**records[1], "score": None}]
    assert source.place("train", 1) == f"line 3 of {path}"
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(records))
    source = read_source(str(path))
    assert source.splits["train"].to_list() == [records[0], {**records[1], "score": None}]
    assert source.place("train", 1) == f"row 2 of {path}"
    path = tmp_path / "rows.csv"
    cells = [["text", "zip"], ["two\nlines", "02134"], ["one", "NA"], ["", "1e5"]]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(cells)
    source = read_source(str(path))
    found = source.splits["train"]
    assert [[row["text"] or "", row["zip"]] for row in found] == cells[1:]
    assert source.place("train", 1) == f"line {1 + path.read_text().split(chr(10)).index('one,NA')} of {path}"
