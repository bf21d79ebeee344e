"""Leaking texts of a task give way to others: the rows are those of a source that the leaking texts were deleted from.

Oracles: `load_task` on that source, which the test writes (the loader knows nothing of leakage); for what was passed
over, hashlib; normalised texts as sets.
"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from helpers_commands import labelled_rows, write_csv
from test_prepare_data import LABELS, record, refused, rows_of, succeed

from tlm_hf.data import task_leakage
from tlm_hf.data.subsets import describe_split
from tlm_hf.data.tasks import TaskArguments, load_task

ROWS = labelled_rows(90, classes=LABELS, seed=8)
TRAIN, VALIDATION, TEST, FOREIGN = ROWS[:80], ROWS[80:100], ROWS[100:140], ROWS[140:]


def copies(rows: list[dict[str, Any]], *numbers: int) -> list[dict[str, Any]]:
    """Some rows again: exact duplicates to the leakage check, other texts to the loader."""
    return [{**rows[number], "text": f"{rows[number]['text'].upper()}!"} for number in numbers]


def write_task(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for split, rows in splits.items():
        write_csv(folder / f"{split}.csv", rows)
    return folder


def titled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"title": f"about {len(row['text'])} letters", **row} for row in rows]


def normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def check_clean(folder: Path) -> None:
    """No text of a split stands in a later one, by an own normalisation and by the report."""
    splits = [{normal(row["text"]) for row in rows_of(folder, "default", split)} for split in SPLITS]
    assert not splits[0] & (splits[1] | splits[2])
    assert not splits[1] & splits[2]
    for check in record(folder)["leakage"]["default"]:
        assert check["pairs"] == {"exact": 0, "near": 0}


def expect(folder: Path, **splits: datasets.Dataset) -> None:
    """The written rows are these, in this order."""
    for split, rows in splits.items():
        written = [(row["text"], row["label"]) for row in rows_of(folder, "default", split)]
        assert written == list(zip(rows["text"], rows["label"], strict=True)), split
        names = rows.features["label"].names
        counts = Counter(names[label] for label in rows["label"])
        assert record(folder)["configs"]["default"][split]["per_label"] == {name: counts[name] for name in names}


SPLITS = ("train", "validation", "test")
LEAKS = copies(TEST, 0, 2, 4, 6, 1, 3, 5)  # four of one class, three of the other
NUMBERS = {"train_per_label": 25, "validation_per_label": 6}
SHAPES: dict[str, dict[str, Any]] = {
    "numbers": NUMBERS,
    "numbers of test too": {**NUMBERS, "test_per_label": 10},
    "all there is": {},
    "another seed": {**NUMBERS, "seed": 5},
    "titles": {**NUMBERS, "title_column": "title"},
    "own validation": {"train_per_label": 25, "validation_per_label": 4},
    "all of own validation": {"train_per_label": 30},
}


def options(given: dict[str, Any]) -> list[object]:
    """Arguments of `load_task` as words of the command."""
    flags = {"seed": "--task-seed"}
    return [word for name, value in given.items() for word in (flags.get(name, f"--{name.replace('_', '-')}"), value)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_rows_are_those_of_a_source_without_the_leaking_ones(shape, tmp_path):
    given = SHAPES[shape]
    own = {"validation": titled(VALIDATION)} if "own" in shape else {}
    clean = {"train": titled(TRAIN), "test": titled(TEST), **own}
    task = load_task(str(write_task(tmp_path / "clean", **clean)), **given)
    chosen = set(load_task(str(tmp_path / "clean"), **{**given, "title_column": None})["test"]["text"])
    held_out = [row for row in titled(TEST) if row["text"] in chosen]
    # A tenth of each class is as many with these as without them.
    leaks = copies(held_out, *(number for number in range(8) if number != 5))
    dirty = {**clean, "train": [*leaks, *clean["train"]]}
    if own:
        chosen = set(load_task(str(tmp_path / "clean"), **given)["validation"]["text"])
        dirty["train"] += copies([row for row in own["validation"] if row["text"] in chosen], 1, 2)
        dirty["validation"] = [*own["validation"], *copies(held_out, 8)]
    write_task(tmp_path / "dirty", **dirty)
    words = (*options(given), "--drop-leakage", "--output-dir")
    assert load_task(str(tmp_path / "dirty"), **given)["train"]["text"][:] != task["train"]["text"][:]
    succeed("--task", tmp_path / "dirty", *words, tmp_path / "data")
    expect(tmp_path / "data", **task)
    check_clean(tmp_path / "data")
    # And where nothing leaks, the option changes nothing.
    succeed("--task", tmp_path / "clean", *words, tmp_path / "same")
    expect(tmp_path / "same", **task)
    for split in ("train", "validation"):
        assert record(tmp_path / "same")["configs"]["default"][split]["leaking_rows_dropped"] == 0


def test_a_source_without_test_split_keeps_the_test_that_it_gave(tmp_path):
    whole = write_csv(tmp_path / "whole.csv", TRAIN)
    given = {"train_per_label": 15, "validation_per_label": 5, "test_per_label": 8}
    test = load_task(str(whole), **given)["test"]
    names = test.features["label"].names
    rows = [{"text": row["text"], "label": names[row["label"]]} for row in test]
    # A copy may come before its text, into the test split itself, so only those are planted that do not.
    leaks = [leak for leak in copies(rows, *range(16)) if key(leak["text"]) > max(key(row["text"]) for row in rows)]
    assert len(leaks) >= 3
    dirty = write_csv(tmp_path / "dirty.csv", [*leaks, *TRAIN])
    succeed("--task", dirty, *options(given), "--drop-leakage", "--output-dir", tmp_path / "data")
    expect(tmp_path / "data", **load_task(str(whole), **given))
    assert {normal(row["text"]) for row in rows} & {
        normal(text) for text in load_task(str(dirty), **given)["train"]["text"]
    }
    check_clean(tmp_path / "data")


def key(text: str) -> str:
    """What the loader orders the rows of a class by, for seed 0."""
    return hashlib.sha256(f"0\0{text}".encode()).hexdigest()


def test_what_was_passed_over_is_counted(tmp_path):
    write_task(tmp_path / "task", train=[*LEAKS, *TRAIN], test=TEST)
    words = ("--train-per-label", 12, "--validation-per-label", 12, "--drop-leakage")
    succeed("--task", tmp_path / "task", *words, "--output-dir", tmp_path / "data")
    leaking = {row["text"] for row in LEAKS}
    passed = Counter()
    for label in LABELS:
        texts = sorted((row["text"] for row in [*LEAKS, *TRAIN] if row["label"] == label), key=key)
        found = Counter()
        for text in texts:
            split = "validation" if found["validation"] < 12 else "train"
            if found["train"] == 12:
                break
            passed[split] += text in leaking
            found[split] += text not in leaking
    assert min(passed["validation"], passed["train"]) > 0
    assert passed.total() < len(LEAKS)
    facts = record(tmp_path / "data")["configs"]["default"]
    assert {split: facts[split]["leaking_rows_dropped"] for split in passed} == passed
    assert "leaking_rows_dropped" not in facts["test"]
    card = (tmp_path / "data" / "README.md").read_text(encoding="utf-8")
    assert f"{passed.total()} leaking training texts were left out beforehand" in card


KINDS = {
    "train in validation": ("train", copies(VALIDATION, 0, 1, 2)),
    "train in another test": ("train", copies(FOREIGN, 3, 4)),
    "validation in another test": ("validation", copies(FOREIGN, 0, 1, 2)),
    "validation in test": ("validation", copies(TEST, 0, 1)),
}


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), list(KINDS)], ids=" and ".join)
def test_each_split_is_held_against_all_that_comes_after_it(kinds, tmp_path):
    """Each kind of leak also stands alone, where nothing else makes the task be chosen anew."""
    write_task(tmp_path / "other", train=TRAIN, test=FOREIGN)
    splits = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    write_task(tmp_path / "clean", **splits)
    for kind in kinds:
        split, leaks = KINDS[kind]
        splits[split] = [*splits[split], *leaks]
    write_task(tmp_path / "dirty", **splits)
    words = ("--train-per-label", 40, "--validation-per-label", 10, "--drop-leakage", "--output-dir", tmp_path / "data")
    succeed("--task", tmp_path / "dirty", "--check-against", tmp_path / "other", *words)
    expect(tmp_path / "data", **load_task(str(tmp_path / "clean")))
    check_clean(tmp_path / "data")


def test_texts_of_other_tasks_stay_where_these_are_not_named(tmp_path):
    leaks = copies(FOREIGN, 0, 1, 2)
    write_task(tmp_path / "task", train=TRAIN, validation=[*VALIDATION, *leaks], test=TEST)
    succeed("--task", tmp_path / "task", "--drop-leakage", "--output-dir", tmp_path / "data")
    found = {row["text"] for row in rows_of(tmp_path / "data", "default", "validation")}
    assert {row["text"] for row in leaks} <= found


def test_a_class_that_is_short_then_is_refused_or_gives_what_it_has(tmp_path, capsys, caplog):
    write_task(tmp_path / "task", train=[*LEAKS, *TRAIN], test=TEST)  # 44 and 43 of which 40 and 40 are clean
    words = ("--task", tmp_path / "task", "--validation-per-label", 6, "--drop-leakage")
    message = refused(capsys, *words, "--train-per-label", 36, "--output-dir", tmp_path / "data")
    assert "has 34 train texts for 36: give --train-per-label 34," in message
    assert not (tmp_path / "data").exists()
    succeed(*words, "--train-per-label", 34, "--output-dir", tmp_path / "remedy")
    check_clean(tmp_path / "remedy")
    assert set(record(tmp_path / "remedy")["configs"]["default"]["train"]["per_label"].values()) == {34}
    words = (*words, "--train-per-label", 36, "--shortfall", "take")
    succeed(*words, "--output-dir", tmp_path / "taken")
    assert "2 of 2 classes have fewer than 36 train texts" in caplog.text
    for name in ("rows", "sha256", "per_label"):
        found = [record(tmp_path / folder)["configs"]["default"]["train"][name] for folder in ("taken", "remedy")]
        assert found[0] == found[1]
    gone = [*copies(TEST, *(2 * number for number in range(20))), *TRAIN[1::2]]
    write_task(tmp_path / "gone", train=gone, test=TEST)
    for shortfall in ("error", "take"):
        message = refused(
            capsys,
            "--task",
            tmp_path / "gone",
            "--drop-leakage",
            "--shortfall",
            shortfall,
            "--output-dir",
            tmp_path / "x",
        )
        assert "'farm'" in message


def relation(name: str, count: int) -> list[dict[str, Any]]:
    """Sentences of a relation in the official shape, each of other words."""
    sentences = []
    for number in range(count):
        tokens = ["head", *(f"{name}{number}w{place}" for place in range(7)), "tail"]
        sentences.append({"tokens": tokens, "h": ["head", "Q1", [[0]]], "t": ["tail", "Q2", [[8]]]})
    return sentences


def test_fewrel_with_markers_and_its_own_sizes(tmp_path, capsys):
    sentences = {f"P{number}": relation("ab"[number], 700) for number in range(2)}
    for folder in ("clean", "dirty"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pid2name.json").write_text(json.dumps({pid: [f"name of {pid}", ""] for pid in sentences}))
    (tmp_path / "clean" / "train_wiki.json").write_text(json.dumps(sentences))
    given: dict[str, Any] = {"entity_markers": "text", "test_per_label": 66}
    task = load_task("fewrel", path=str(tmp_path / "clean"), **given)
    markers = {"[E1]", "[/E1]", "[E2]", "[/E2]"}
    test = [[token for token in text.split() if token not in markers] for text in task["test"]["text"][:]]
    last = {label: max(key(" ".join(tokens)) for tokens in test if tokens[1].startswith(label)) for label in "ab"}
    planted = Counter()
    for tokens in test[:40]:
        leak = [*tokens, "!"]
        if key(" ".join(leak)) > last[tokens[1][0]]:
            pid = f"P{'ab'.index(tokens[1][0])}"
            sentences[pid].insert(0, {"tokens": leak, "h": ["head", "Q1", [[0]]], "t": ["tail", "Q2", [[8]]]})
            planted[pid] += 1
    assert min(planted.values()) > 5
    (tmp_path / "dirty" / "train_wiki.json").write_text(json.dumps(sentences))
    words = ("--task", "fewrel", "--task-path", tmp_path / "dirty", "--entity-markers", "text", "--drop-leakage")
    succeed(*words, "--test-per-label", 66, "--output-dir", tmp_path / "data")
    expect(tmp_path / "data", **task)
    check_clean(tmp_path / "data")
    assert "[E1] head [/E1]" in rows_of(tmp_path / "data", "default", "train")[0]["text"]
    for pid, rows in sentences.items():  # 66 for test and 624 others that do not leak
        spare = [
            row for row in rows if key(" ".join(row["tokens"])) > last["ab"[int(pid[1])]] and "!" not in row["tokens"]
        ]
        sentences[pid] = [row for row in rows if row not in spare[:10]]
    (tmp_path / "dirty" / "train_wiki.json").write_text(json.dumps(sentences))
    message = refused(capsys, *words, "--test-per-label", 66, "--output-dir", tmp_path / "few")
    assert "has 561 train texts for 567: give --train-per-label 561 --validation-per-label 63," in message
    words = (*words, "--test-per-label", 66, "--train-per-label", 561, "--validation-per-label", 63)
    succeed(*words, "--output-dir", tmp_path / "few")
    assert set(record(tmp_path / "few")["configs"]["default"]["train"]["per_label"].values()) == {561}


def test_docstrings_are_asked_for_more(monkeypatch):
    """Its splits are apart and known by their order alone; a loader of the same kind stands in for the slow one."""
    texts = {split: [f"{split} text {number} of a library" for number in range(12)] for split in SPLITS}
    texts["train"][1] = texts["test"][0].upper()
    texts["validation"][0] = texts["test"][3].upper()
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "id": datasets.Value("string"),
        }
    )
    asked = []

    def load(arguments: TaskArguments) -> datasets.DatasetDict:
        counts = {split: getattr(arguments, f"{split}_per_label") or 4 for split in SPLITS}
        asked.append(counts)
        if counts["train"] > 5:
            raise task_leakage.UserError("No more.")
        splits = {}
        for split, count in counts.items():
            rows = list(enumerate(texts[split]))[: 2 * count]
            columns = {
                "text": [text for _, text in rows],
                "label": [number % 2 for number, _ in rows],
                "id": [f"{split}/{number}" for number, _ in rows],
            }
            facts = {"asked_per_label": counts, "per_label": {"a": count, "b": count}}
            splits[split] = describe_split(datasets.Dataset.from_dict(columns, features=features), **facts)
        return datasets.DatasetDict(splits)

    monkeypatch.setattr(task_leakage, "load_task_from", load)
    arguments = TaskArguments(task="docstrings")
    clean = task_leakage.replace_leaking(arguments, load(arguments), [])
    assert clean["train"]["id"][:] == [f"train/{number}" for number in (0, 2, 3, 4, 5, 6, 7, 9)]
    assert clean["validation"]["id"][:] == [f"validation/{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8)]
    assert clean["test"]["text"][:] == texts["test"][:8]
    texts["train"][3] = texts["train"][5] = texts["test"][2].upper()
    with pytest.raises(task_leakage.UserError, match="has 1 train texts for 4: give --train-per-label 1,"):
        task_leakage.replace_leaking(arguments, load(arguments), [])
    assert asked[-1]["train"] > 5
