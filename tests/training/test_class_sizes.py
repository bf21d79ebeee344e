"""Classes of very different sizes: what chooses the epoch, the weighted loss, and the scores of each class."""

import numpy as np
import pytest
import torch
from helpers_commands import labelled_rows, results_of, shelf, succeed, write_splits
from sklearn.metrics import classification_report
from transformers import BertForSequenceClassification, BertTokenizer

from tlm_hf.errors import UserError
from tlm_hf.evaluation.metrics import class_metrics
from tlm_hf.training.finetune_options import FinetuneOptions

ROWS = {"train": (24, 4), "validation": (6, 2), "test": (6, 2)}
"""Of `farm` and `sea` in each split."""
WORDS = ("--learning-rate", 0, "--num-train-epochs", 1, "--batch-size", 28, "--dropout", 0, "--bf16", "false")
WORDS = (*WORDS, "--logging-steps", 1, "--disable-tqdm")


@pytest.fixture
def task(tmp_path):
    rows = {name: [row for row in labelled_rows(40) if row["label"] == name] for name in ("farm", "sea")}
    splits = {}
    for split, counts in ROWS.items():
        splits[split] = [rows[name].pop() for name, count in zip(rows, counts, strict=True) for _ in range(count)]
    return write_splits(tmp_path / "task", **splits), splits["train"]


def test_balanced_weights_count_rare_classes_more(task, tmp_path, caplog):
    folder, rows = task
    words = ("finetune", "--model", shelf() / "encoder", "--task", folder, *WORDS)
    losses = {}
    for name, weights in (("plain", (1, 1)), ("balanced", (28 / (2 * 24), 28 / (2 * 4)))):
        own = ("--class-weights", "balanced") if name == "balanced" else ()
        caplog.clear()
        succeed(*words, *own, "--output-dir", tmp_path / name)
        results = results_of(tmp_path / name)
        model = BertForSequenceClassification.from_pretrained(tmp_path / name).eval()
        tokenizer = BertTokenizer.from_pretrained(tmp_path / name)
        with torch.no_grad():
            logits = model(**tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")).logits
        labels = torch.tensor([("farm", "sea").index(row["label"]) for row in rows])
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        expected = (each * torch.tensor(weights)[labels]).mean().item()
        losses[name] = next(row["loss"] for row in results["history"] if "loss" in row)
        assert losses[name] == pytest.approx(expected, abs=1e-4)
        assert results["chosen_by"] == "macro_f1"
        assert results["settings"].get("class_weights") == (None if name == "plain" else "balanced")
        assert "farm: 24 training rows, sea: 4" in caplog.text
        assert set(results["classes"]) == {"farm", "sea"}
    assert abs(losses["plain"] - losses["balanced"]) > 1e-3


def test_classes_of_one_size_are_chosen_by_accuracy_and_what_is_asked_for_wins(task, tmp_path):
    words = ("finetune", "--model", shelf() / "encoder", *WORDS)
    succeed(*words, "--task", shelf() / "task.csv", "--output-dir", tmp_path / "same")
    assert results_of(tmp_path / "same")["chosen_by"] == "accuracy"
    succeed(*words, "--task", task[0], "--metric-for-best-model", "loss", "--output-dir", tmp_path / "asked")
    assert results_of(tmp_path / "asked")["chosen_by"] == "loss"


@pytest.mark.parametrize(("option", "word"), [("class_weights", "equal"), ("metric_for_best_model", "f1")])
def test_other_words_are_refused(option, word):
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} is '{word}': choose"):
        FinetuneOptions.read({"output_dir": "out", option: word})


def test_scores_of_each_class_are_scikit_learns():
    labels, answers = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    ours = class_metrics(np.eye(4)[answers], labels, ["a", "b", "c", "none"])
    assert ours["a"] == {"precision": 0.5, "recall": pytest.approx(2 / 3), "f1": pytest.approx(4 / 7), "texts": 3}
    theirs = classification_report(labels, answers, output_dict=True, zero_division=0)
    for place, name in enumerate("abc"):
        expected = theirs[str(place)]
        assert list(ours[name].values()) == [expected[key] for key in ("precision", "recall", "f1-score", "support")]
    assert ours["none"] == {"precision": 0, "recall": 0, "f1": 0, "texts": 0}
