"""Splits stay apart, a member's split is known, and a user's columns come back as they were."""

import csv
import json

import datasets
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from tlm_hf.data.tasks import load_task
from tlm_hf.errors import UserError
from tlm_hf.evaluation.baselines import tfidf_baseline
from tlm_hf.evaluation.predict import PredictArguments, _read_input, predict_command
from tlm_hf.loading import trained_on_another_split


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_a_validation_split_that_repeats_the_training_rows_does_not_leak(tmp_path):
    rows = [["text", "label"], *([f"text number {index}", "ab"[index % 2]] for index in range(80))]
    write(tmp_path / "train.csv", rows)
    write(tmp_path / "validation.csv", rows[:41])
    task = load_task(str(tmp_path))
    train, validation, test = (set(task[split]["text"][:]) for split in ("train", "validation", "test"))
    assert test
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_validation_is_fifteen_per_cent_where_the_source_has_no_test_split(tmp_path):
    write(tmp_path / "a.csv", [["text", "label"], *([f"text number {i}", "ab"[i % 2]] for i in range(4000))])
    task = load_task(str(tmp_path / "a.csv"))
    assert {split: len(task[split]) for split in task} == {"train": 2800, "validation": 600, "test": 600}


def test_a_source_without_a_train_split_is_refused(tmp_path):
    write(tmp_path / "test.csv", [["text", "label"], ["a", "x"], ["b", "y"]])
    with pytest.raises(UserError, match="no train split"):
        load_task(str(tmp_path))


def test_words_that_pandas_takes_for_empty_are_labels(tmp_path):
    write(tmp_path / "a.csv", [["text", "label"], *([f"text {i}", ("NA", "None")[i % 2]] for i in range(40))])
    assert load_task(str(tmp_path / "a.csv"))["train"].features["label"].names == ["NA", "None"]


def test_predict_reads_cells_as_they_are_written(tmp_path):
    write(tmp_path / "a.csv", [["zip", "note", "text"], ["02134", "NA", "one"], ["3", "", "two"]])
    table = _read_input(PredictArguments(model="m", input=str(tmp_path / "a.csv")))
    assert table.to_dict("list") == {"zip": ["02134", "3"], "note": ["NA", ""], "text": ["one", "two"]}


def test_predict_does_not_overwrite_its_input(tmp_path):
    write(tmp_path / "a.csv", [["text"], ["one"]])
    with pytest.raises(UserError, match="input itself"):
        predict_command(PredictArguments(model="m", input=str(tmp_path / "a.csv"), output=str(tmp_path / "a.csv")))
    assert (tmp_path / "a.csv").read_text().split() == ["text", "one"]


def test_baseline_of_texts_without_shared_words():
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    texts = [f"alpha{i} beta{i}" for i in range(8)]
    rows = datasets.Dataset.from_dict({"text": texts, "label": [0, 1] * 4}, features=names)
    with pytest.raises(ValueError, match="no terms remain"):
        TfidfVectorizer(min_df=2).fit(texts)
    found = tfidf_baseline(datasets.DatasetDict(train=rows, validation=rows, test=rows))
    assert found["accuracy"] == 1.0


def test_the_split_of_a_fine_tuned_folder_is_known(tmp_path):
    assert not trained_on_another_split(str(tmp_path), "a")
    (tmp_path / "results.json").write_text(json.dumps({"settings": {"task_sha256": "a"}}))
    assert not trained_on_another_split(str(tmp_path), "a")
    assert trained_on_another_split(str(tmp_path), "b")
