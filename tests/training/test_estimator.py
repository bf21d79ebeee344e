"""The committee as a scikit-learn estimator. Oracle: scikit-learn's own cross-validation and search, which drive it."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_commands import labelled_rows, shelf
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import GridSearchCV, cross_val_score

from tlm_hf import TLMClassifier
from tlm_hf.errors import UserError
from tlm_hf.training import estimator

ROWS = labelled_rows(16)
TEXTS, LABELS = [row["text"] for row in ROWS], [row["label"] for row in ROWS]


def test_it_is_searched_and_cross_validated_by_scikit_learn():
    model = TLMClassifier(encoder=[str(shelf() / "encoder")], num_members=1, num_train_epochs=1.0)
    split = [(range(12), range(12, 16))]
    search = GridSearchCV(model, {"num_train_epochs": [1.0, 2.0]}, cv=split).fit(TEXTS, LABELS)
    probabilities = search.predict_proba(TEXTS)
    assert list(search.best_estimator_.classes_) == ["farm", "sea"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert search.predict(TEXTS).tolist() == [("farm", "sea")[place] for place in probabilities.argmax(axis=1)]
    assert search.score(TEXTS, LABELS) == np.mean(search.predict(TEXTS) == np.array(LABELS))
    numbers = [int(label == "sea") for label in LABELS]
    texts = pd.Series(TEXTS, index=range(100, 100 + len(TEXTS))[::-1])
    scores = cross_val_score(clone(model), texts, pd.Series(numbers, index=texts.index), cv=split)
    assert scores.shape == (1,)
    assert np.isfinite(scores).all()


def test_several_labels_a_text_are_learned():
    labels = np.array([[label == "sea", label == "farm", place % 2] for place, label in enumerate(LABELS)], dtype=int)
    model = TLMClassifier(encoder=[str(shelf() / "encoder")], num_members=1, num_train_epochs=1.0).fit(TEXTS, labels)
    chosen, probabilities = model.predict(TEXTS), model.predict_proba(TEXTS)
    assert chosen.shape == labels.shape
    assert set(np.unique(chosen)) <= {0, 1}
    np.testing.assert_array_equal(chosen, probabilities >= model.committee_.config.threshold)
    assert model.score(TEXTS, labels) == (chosen == labels).all(axis=1).mean()


def test_too_few_texts_are_refused():
    with pytest.raises(UserError, match="class 'rare'"):
        TLMClassifier().fit(TEXTS[:10] + TEXTS[-2:], LABELS[:10] + ["rare"] * 2)
    frame = pd.DataFrame({"label": [0] * 2 + [1] * 10})
    with pytest.raises(UserError, match="class 0 "), pytest.warns(DataConversionWarning):
        TLMClassifier().fit(TEXTS[:12], frame[["label"]])
    with pytest.raises(UserError, match="2 texts"):
        TLMClassifier().fit(TEXTS[:2], np.eye(2))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        TLMClassifier().fit(TEXTS[:12], LABELS[:11])


def test_three_texts_of_a_class_are_enough_and_a_missing_or_continuous_label_is_refused():
    options = {"encoder": str(shelf() / "encoder"), "num_members": 1, "num_train_epochs": 1.0}
    model = TLMClassifier(**options, class_weights="balanced")
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    random.seed(5)
    torch.set_num_threads(2)
    assert set(model.fit(TEXTS[:20], ["sea"] * 3 + ["farm"] * 17).classes_) == {"sea", "farm"}
    # The caller's random numbers and threads are left as they were.
    assert np.random.rand() == np.random.RandomState(5).rand()  # noqa: NPY002
    assert random.random() == random.Random(5).random()
    assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(5))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    for missing in (np.nan, None, pd.NA):
        with pytest.raises(UserError, match="y has no label at 1 "):
            model.fit(TEXTS[:6], ["sea", missing, "farm", "sea", "sea", "farm"])
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        model.fit(TEXTS[:6], [0.5, 1.5] * 3)
    assert model.fit(TEXTS[:12], np.array([0, 1] * 6, dtype=object)).classes_.tolist() == [0, 1]


@pytest.mark.parametrize("cell", ["sea", 2, "1", np.nan])
def test_columns_of_other_values_than_0_and_1_are_refused(cell):
    with pytest.raises(UserError, match="0 and 1"):
        TLMClassifier().fit(TEXTS[:4], pd.DataFrame({"sea": [1, 0, 1, cell], "farm": [0, 1, 0, 1]}))
    with pytest.raises(UserError, match="y has lists"):
        TLMClassifier().fit(TEXTS[:3], [["sea"], ["sea", "farm"], []])


def test_what_is_no_text_is_refused_and_blank_texts_are_left_out(monkeypatch):
    missing = [*TEXTS[:-1], None]
    for texts, said in ((pd.DataFrame({"text": TEXTS}), "a table"), (TEXTS[0], "one text"), (missing, "None at 31")):
        with pytest.raises(UserError, match=said):
            TLMClassifier().fit(texts, LABELS)
    seen = []
    monkeypatch.setattr(estimator, "train_from_table", lambda splits, _: seen.append(splits) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TLMClassifier().fit([*TEXTS, " "], [*LABELS, "sea"])
    assert sorted(text for rows in seen[0].values() for text in rows["text"]) == sorted(TEXTS)
