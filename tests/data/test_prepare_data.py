"""Data set folders: rows, leaks found and dropped, a card that agrees with the files, folders whole or not there."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import datasets
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from helpers_commands import CLASSES, contents, labelled_rows, refused, sentence, succeed, write_csv, write_splits
from huggingface_hub import DatasetCard

from tlm_hf.data.corpora import load_corpus
from tlm_hf.data.dataset_folder import config_name
from tlm_hf.data.sources import text_hash
from tlm_hf.data.tasks import load_task

LABELS = ["farm", "sea"]
EXACT, NEAR = 3, 2
"""Training texts that the task's source repeats from its test split, exactly (but for case) and nearly."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """`corpus.txt`, and `task/{train,test}.csv`, whose training split repeats texts of the test split."""
    folder = tmp_path_factory.mktemp("sources")
    rows = labelled_rows(40, classes=LABELS)
    test = rows[60:]
    planted = [{"text": row["text"].upper() + "!", "label": row["label"]} for row in test[:EXACT]]
    planted += [{"text": f"{row['text']} and so it goes on", "label": row["label"]} for row in test[-NEAR:]]
    write_splits(folder / "task", train=[*planted, *rows[:60]], test=test)
    rng = random.Random(4)
    texts = [f"{sentence(rng, rng.choice(CLASSES), 30)} number {index}" for index in range(211)]
    (folder / "corpus.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


CORPUS = ("--num-texts", 40, 80, 160, "--validation-texts", 10, "--seed", 3)


@pytest.fixture(scope="module")
def corpus_folder(home) -> Path:
    succeed("prepare-data", "--corpus", home / "corpus.txt", *CORPUS, "--output-dir", home / "tiny-corpus")
    return home / "tiny-corpus"


@pytest.fixture(scope="module")
def task_folder(home, corpus_folder) -> Path:
    succeed("prepare-data", "--task", home / "task", "--output-dir", home / "tiny-task")
    return home / "tiny-task"


def record(folder: Path) -> dict:
    return json.loads((folder / "subset.json").read_text(encoding="utf-8"))


def rows_of(folder: Path, config: str, split: str) -> list[dict]:
    return pq.read_table(folder / config / f"{split}-00000-of-00001.parquet").to_pylist()


LOAD = """
import json, sys, datasets
datasets.disable_progress_bars()
found = {}
for config in sys.argv[2:]:
    splits = datasets.load_dataset(sys.argv[1], None if config == "-" else config)
    found[config] = {
        name: [len(rows), rows.column_names, rows[0], getattr(rows.features.get("label"), "names", None)]
        for name, rows in splits.items()
    }
print(json.dumps(found))
"""


def test_opens_anywhere_without_stale_files(corpus_folder, task_folder, tmp_path, run_without_package):
    folder = tmp_path / "tiny-corpus"
    shutil.copytree(corpus_folder, folder)
    for stale in ("40/train-00000-of-00002.parquet", "40/train-00001-of-00002.parquet", "data/train-0.parquet"):
        (folder / stale).parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict({"words": ["left over"]}).to_parquet(str(folder / stale))
    found = run_without_package(LOAD, str(folder), "40", "80", "160", "-")
    for config, size in (("40", 40), ("80", 80), ("160", 160), ("-", 160)):
        assert found[config]["train"][:2] == [size, ["text", "id"]]
        assert found[config]["validation"][:2] == [10, ["text", "id"]]
        assert found[config]["train"][2] == rows_of(corpus_folder, config.replace("-", "160"), "train")[0]
    (splits,) = run_without_package(LOAD, str(task_folder), "default").values()
    assert list(splits) == ["train", "validation", "test"]
    for name, (rows, columns, first, names) in splits.items():
        assert (columns, names) == (["text", "id", "label"], LABELS)
        assert first == rows_of(task_folder, "default", name)[0]
        assert rows == len(rows_of(task_folder, "default", name))


def test_rows_are_those_of_the_loaders_and_sizes_are_nested(home, corpus_folder, task_folder):
    largest = rows_of(corpus_folder, "160", "train")
    for size in (40, 80, 160):
        rows = rows_of(corpus_folder, str(size), "train")
        assert rows == largest[:size]
        corpus = load_corpus(str(home / "corpus.txt"), num_texts=size, validation_texts=10, seed=3)
        assert [row["text"] for row in rows] == corpus["train"]["text"][:]
        held_out = rows_of(corpus_folder, str(size), "validation")
        assert [row["text"] for row in held_out] == corpus["validation"]["text"][:]
        assert not {row["text"] for row in held_out} & {row["text"] for row in largest}
    assert len({row["id"] for row in largest}) == 160
    task = load_task(str(home / "task"), drop_leakage=True)
    for split, rows in task.items():
        assert rows_of(task_folder, "default", split) == [
            {"text": row["text"], "id": row["id"], "label": row["label"]} for row in rows
        ]
    source = {row["text"] for row in labelled_rows(40, classes=LABELS)[60:]}
    assert {row["text"] for row in rows_of(task_folder, "default", "test")} == source


def test_facts_are_those_of_the_files(home, corpus_folder, task_folder):
    for folder in (corpus_folder, task_folder):
        facts = record(folder)
        for config, splits in facts["configs"].items():
            for split, found in splits.items():
                rows = rows_of(folder, config, split)
                assert found["rows"] == len(rows)
                assert found["sha256"] == text_hash(row["text"] for row in rows)
                if "label" in rows[0]:
                    counts = Counter(LABELS[row["label"]] for row in rows)
                    assert found["per_label"] == {label: counts[label] for label in LABELS}
        hashes = contents(folder)
        del hashes["subset.json"]
        assert facts["files"] == hashes
        for path in folder.rglob("*"):  # nothing of this machine is written
            assert path.is_dir() or str(home).encode() not in path.read_bytes()


def test_card_agrees_with_the_files(corpus_folder, task_folder):
    for folder, configs in ((corpus_folder, ["40", "80", "160"]), (task_folder, ["default"])):
        text = (folder / "README.md").read_text(encoding="utf-8")
        data = yaml.safe_load(text.split("---\n")[1])
        assert DatasetCard(text).data.to_dict() == data
        assert [entry["config_name"] for entry in data["configs"]] == configs
        assert [entry["config_name"] for entry in data["configs"] if entry.get("default")] == configs[-1:]
        named = [place["path"] for entry in data["configs"] for place in entry["data_files"]]
        assert sorted([*named, "README.md", "subset.json"]) == sorted(contents(folder))
        assert data["license"] == "unknown"
    names = data["dataset_info"]["features"][2]["dtype"]["class_label"]["names"]
    assert names == {"0": "farm", "1": "sea"}
    assert data["task_categories"] == ["text-classification"]


def test_planted_leaks_are_dropped_and_counted(task_folder):
    facts = record(task_folder)["configs"]["default"]
    assert sum(facts[split]["leaking_rows_dropped"] for split in ("train", "validation")) == EXACT + NEAR
    card = (task_folder / "README.md").read_text(encoding="utf-8")
    assert f"{EXACT + NEAR} training and validation texts that repeat a held-out text" in card


def test_same_command_elsewhere_gives_the_same_bytes(home, task_folder, tmp_path, capsys):
    before = contents(task_folder)
    assert "is there already" in refused(capsys, "prepare-data", "--task", home / "task", "--output-dir", task_folder)
    assert contents(task_folder) == before
    succeed("prepare-data", "--task", home / "task", "--output-dir", tmp_path / "other-name")
    for name, digest in contents(tmp_path / "other-name").items():
        if name.endswith(".parquet"):
            assert before[name] == digest


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--corpus CORPUS --task TASK --output-dir OUT", "one of --corpus and --task"),
        ("--task TASK", "--output-dir"),
        ("--task no_such_task --output-dir OUT", "no_such_task"),
        ("--corpus CORPUS --num-texts 80 40 --output-dir OUT", "ascending"),
        ("--corpus CORPUS --num-texts 40 4000 --output-dir OUT", "4000 texts"),
        ("--task TASK --text-pair-column label --output-dir OUT", "single texts: leave out --text-pair-column"),
        ("--task TASK --num-texts 40 --output-dir OUT", "--train-per-label"),
        ("--task TASK --output-dir /", "is there already"),
        ("--task TASK --output-dir TASK", "is there already"),
    ],
)
def test_bad_input_is_one_sentence(words, part, home, tmp_path, capsys):
    places = {"OUT": tmp_path / "out", "CORPUS": home / "corpus.txt", "TASK": home / "task"}
    for name, place in places.items():
        words = words.replace(name, str(place))
    before = contents(home)
    assert part in refused(capsys, "prepare-data", *words.split())
    assert contents(home) == before
    assert not list(tmp_path.iterdir())


def test_names_from_data_are_harmless(tmp_path):
    nasty = ["a|b", "<script>x</script>", "key: value", "- item", "[x](http://evil)", "`*_#"]
    rows = [{**row, "label": nasty[index % 6]} for index, row in enumerate(labelled_rows(60, classes=LABELS))]
    succeed("prepare-data", "--task", write_csv(tmp_path / "rows.csv", rows), "--output-dir", tmp_path / "data")
    card = DatasetCard.load(tmp_path / "data" / "README.md")
    names = card.data.to_dict()["dataset_info"]["features"][2]["dtype"]["class_label"]["names"]
    assert sorted(names.values()) == sorted(nasty)
    assert "<script" not in card.text
    assert "](http://evil" not in card.text.replace("\\]", "")
    assert datasets.load_dataset(str(tmp_path / "data"))["train"].features["label"].names == sorted(nasty)


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_other_kinds_lose_their_leaks_too(kind, home, tmp_path):
    rows = {split: pd.read_csv(home / "task" / f"{split}.csv").to_dict("records") for split in ("train", "test")}
    labels = {"multi": ["sea", "farm|sea", "farm"], "regression": [1.5, 2, 4]}[kind]
    rows = {split: [{**row, "label": labels[n % 3]} for n, row in enumerate(of)] for split, of in rows.items()}
    write_splits(tmp_path / "task", **rows)
    words = ("--task", tmp_path / "task", "--problem-type", kind, "--output-dir", tmp_path / "data")
    succeed("prepare-data", *words)
    again = load_task(str(tmp_path / "data"), problem_type=kind)
    assert record(tmp_path / "data")["configs"]["default"]["train"]["leaking_rows_dropped"] >= EXACT + NEAR
    assert len(again["test"]) == len(rows["test"])


def test_names_of_sizes():
    sizes = {20_000: "20k", 2_000_000: "2m", 1_500_000: "1500k", 1234: "1234", None: "all"}
    assert {size: config_name(size) for size in sizes} == sizes
