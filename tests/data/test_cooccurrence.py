"""Word rows from counts, against counting pair by pair and numpy's full decomposition."""

from itertools import combinations

import numpy as np
import pytest

from tlm_hf.data import cooccurrence

VOCABULARY, SPECIAL = 9, (0, 1)
TEXTS = [[0, 2, 3, 2, 4, 1], [0, 5, 2, 6, 7, 3, 4, 3, 1], [0, 1], [0, 7, 1]]
TEXTS = [np.array(text, dtype=np.int32) for text in TEXTS]


def pairs_one_by_one():
    paragraphs, windows = np.zeros((2, VOCABULARY, VOCABULARY))
    for text in TEXTS:
        words = [token for token in text if token not in SPECIAL]
        for one in set(words):
            for other in set(words):
                paragraphs[one, other] += 1
        for (place, one), (later, other) in combinations(enumerate(words), 2):
            if later - place <= 5:
                windows[one, other] += 1 / (later - place)
                windows[other, one] += 1 / (later - place)
    return paragraphs, windows


def information(pairs):
    with np.errstate(divide="ignore", invalid="ignore"):
        smoothed = pairs.sum(0) ** 0.75 / (pairs.sum(0) ** 0.75).sum()
        return np.nan_to_num(np.maximum(0, np.log(pairs / pairs.sum(1, keepdims=True) / smoothed)), posinf=0, neginf=0)


@pytest.mark.parametrize("at_once", [1, 100])
@pytest.mark.parametrize("contexts", [100, 3])
def test_pairs_and_their_information(monkeypatch, at_once, contexts):
    monkeypatch.setattr(cooccurrence, "TEXTS_AT_ONCE", at_once)
    monkeypatch.setattr(cooccurrence, "CONTEXTS", contexts)
    # 2 and 3 occur three times, 4 and 7 twice, 5 and 6 once.
    columns = [2, 3, 4] if contexts == 3 else [2, 3, 4, 5, 6, 7]
    for pairs, expected in zip(cooccurrence.count_pairs(TEXTS, VOCABULARY, SPECIAL), pairs_one_by_one(), strict=True):
        assert np.allclose(pairs.toarray(), expected[:, columns])
        ours = cooccurrence.positive_information(pairs).toarray()
        assert np.allclose(ours, information(expected[:, columns]), atol=1e-6)
        assert contexts == 3 or (ours > 0).any()


def test_rows_are_those_of_a_full_decomposition():
    rows = cooccurrence.count_rows(TEXTS, VOCABULARY, 12, SPECIAL)
    assert rows.shape == (VOCABULARY, 12)
    assert rows.dtype == np.float32
    for part, pairs in zip(np.split(rows, 2, axis=1), pairs_one_by_one(), strict=True):
        left, scale, _ = np.linalg.svd(information(pairs))
        expected = left[:, :6] * np.sqrt(scale[:6])
        expected /= np.linalg.norm(expected, axis=1)[2:8].mean()
        assert np.allclose(part @ part.T, expected @ expected.T, atol=1e-5)
    assert not rows[[0, 1, 8]].any()  # special, and never seen


def test_columns_beyond_the_rank_and_a_corpus_without_pairs(monkeypatch):
    monkeypatch.setattr(cooccurrence, "PARAGRAPH_SHARE", 0.25)
    rows = cooccurrence.count_rows(TEXTS, VOCABULARY, 40, SPECIAL)
    assert not rows[:, 9:10].any()
    assert rows[:, 10].any()
    assert not cooccurrence.count_rows([np.array([0, 1])], VOCABULARY, 4, SPECIAL).any()
