"""`tlm committee`: choosing, combining and calibrating, against numpy on stock BERT members' logits."""

import random

import numpy as np
import pytest
import torch
from helpers_commands import CLASSES, WORDS, results_of, sentence, succeed, write_csv
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, log_loss
from transformers import AutoTokenizer, BertTokenizer, pipeline

from tlm_hf.data.tasks import load_task
from tlm_hf.evaluation.calibration import choose_temperature

LABELS = {"id2label": dict(enumerate(CLASSES[:2])), "label2id": {name: place for place, name in enumerate(CLASSES[:2])}}
MEMBERS = 4


@pytest.fixture
def home(build_pair, tmp_path, monkeypatch):
    """Four classifiers in folders `0` to `3` and a task of two classes; the stock models and their tokenizer."""
    monkeypatch.chdir(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word for part in WORDS.values() for word in part})]
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)})
    stock = []
    for seed in range(MEMBERS):
        ours, theirs = build_pair("classifier", seed=seed, vocab_size=len(words), **LABELS)
        ours.save_pretrained(tmp_path / str(seed))
        tokenizer.save_pretrained(tmp_path / str(seed))
        stock.append(theirs)
    rng = random.Random(0)
    rows = [{"text": sentence(rng, topic, 8), "label": topic} for topic in CLASSES[:2] for _ in range(120)]
    write_csv(tmp_path / "task.csv", rows)
    return tmp_path, stock, tokenizer


def join(*words):
    members = map(str, range(MEMBERS))
    succeed("committee", "--task", "task.csv", "--members", *members, "--output-dir", "out", "--disable-tqdm", *words)


@torch.no_grad()
def votes_of(stock, tokenizer, split):
    batch = tokenizer(load_task("task.csv")[split]["text"][:], padding=True, truncation=True, return_tensors="pt")
    votes = np.stack([model(**batch).logits.numpy() for model in stock], axis=1).astype(np.float64)
    return votes, np.array(load_task("task.csv")[split]["label"][:])


def mean_probability(votes, members):
    return softmax(votes[:, members], axis=-1).mean(axis=1)


def test_the_temperature_is_chosen_on_validation(home):
    root, stock, tokenizer = home
    join()
    results = results_of(root / "out")
    votes, labels = votes_of(stock, tokenizer, "validation")
    members = list(range(MEMBERS))
    assert results["members"] == [str(place) for place in members]
    chosen = choose_temperature(np.log(mean_probability(votes, members)), labels)
    assert results["temperature"] == pytest.approx(chosen.value, rel=1e-3)
    # What is reported of the test split, and what the folder answers, are that committee.
    votes, labels = votes_of(stock, tokenizer, "test")
    expected = softmax(np.log(mean_probability(votes, members)) / results["temperature"], axis=-1)
    assert results["test"]["accuracy"] == pytest.approx(accuracy_score(labels, expected.argmax(-1)))
    assert results["test"]["loss"] == pytest.approx(log_loss(labels, expected), abs=1e-5)
    assert results["test"]["brier_score"] == pytest.approx(
        ((expected - np.eye(2)[labels]) ** 2).sum(-1).mean(), abs=1e-5
    )
    before = mean_probability(votes, members)
    assert results["test"]["loss_before"] == pytest.approx(log_loss(labels, before), abs=1e-5)
    assert results["test"]["brier_score_before"] == pytest.approx(((before - np.eye(2)[labels]) ** 2).sum(-1).mean())
    for member, score in enumerate(results["member_test"]):
        assert score["accuracy"] == pytest.approx(accuracy_score(labels, votes[:, member].argmax(-1)))
    assert results["best_member_test_accuracy"] == max(score["accuracy"] for score in results["member_test"])
    assert results["parameters"] == sum(model.num_parameters() for model in stock)
    classify = pipeline("text-classification", model=str(root / "out"), device="cpu")
    texts = load_task("task.csv")["test"]["text"][:8]
    for text, row in zip(texts, expected, strict=False):
        shown = {entry["label"]: entry["score"] for entry in classify([text], top_k=None)[0]}
        assert [shown[name] for name in CLASSES[:2]] == pytest.approx(list(row), abs=1e-5)
    assert (root / "out" / "reliability.png").stat().st_size > 5000
    assert AutoTokenizer.from_pretrained(root / "out").model_max_length == 16  # all that members read


def test_logits_are_averaged_when_asked(home):
    root, stock, tokenizer = home
    join("--combination", "logits")
    results = results_of(root / "out")
    votes, labels = votes_of(stock, tokenizer, "test")
    expected = log_softmax(votes.mean(axis=1) / results["temperature"], axis=-1)
    assert results["test"]["loss"] == pytest.approx(-expected[np.arange(len(labels)), labels].mean(), abs=1e-5)
    assert results["settings"]["combination"] == "logits"
