"""Word rows, one for each token, from how often tokens occur together in a corpus; no training, deterministic.

Co-occurrence within a paragraph, and within a few tokens, becomes positive pointwise mutual information; the rows are
U sqrt(S) of both truncated singular value decompositions, side by side (Levy and Goldberg, NeurIPS 2014; Levy, Goldberg
and Dagan, TACL 2015; Halko et al., SIAM Review 2011).
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

WINDOW = 5  # tokens to each side; a pair at distance d counts 1/d
SMOOTHING = 0.75  # exponent of the contexts' counts: without it, rare contexts get the largest information
CONTEXTS = 10_000  # the most frequent tokens serve as contexts, which bounds memory for large vocabularies
TEXTS_AT_ONCE = 10_000
PARAGRAPH_SHARE = 0.5  # of the columns
WIDEST = 256  # columns that are made of counts at most: the decomposition's cost grows, and wider rows gain little


def count_rows(texts: Sequence[np.ndarray], vocab_size: int, width: int, special_ids: Sequence[int] = ()) -> np.ndarray:
    """Rows for every token from the ids of texts, float32 (vocab_size, width), of mean length 1 a part; 0 if unseen."""
    paragraphs, windows = count_pairs(texts, vocab_size, special_ids)
    counted = min(width, WIDEST)
    of_paragraphs = round(counted * PARAGRAPH_SHARE)
    parts = ((paragraphs, of_paragraphs), (windows, counted - of_paragraphs))
    rows = np.concatenate([factorise(positive_information(counts), size) for counts, size in parts], axis=1)
    return np.pad(rows, ((0, 0), (0, width - counted)))


def count_pairs(
    texts: Sequence[np.ndarray], vocab_size: int, special_ids: Sequence[int] = ()
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """How many texts hold both of two tokens, and the pairs near each other: float32 (vocab_size, contexts) each."""
    is_counted = ~np.isin(np.arange(vocab_size), list(special_ids))
    frequencies = np.zeros(vocab_size, dtype=np.int64)
    presence, windows = [], sp.csr_matrix((vocab_size, vocab_size), dtype=np.float32)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        owners = np.repeat(np.arange(len(part)), [len(text) for text in part])
        tokens = np.concatenate(list(part))
        owners, tokens = owners[is_counted[tokens]], tokens[is_counted[tokens]]
        frequencies += np.bincount(tokens, minlength=vocab_size)
        ones = np.ones(len(tokens), dtype=np.float32)
        held = sp.csr_matrix((ones, (owners, tokens)), shape=(len(part), vocab_size))
        held.data[:] = 1  # a repeated token counts once
        presence.append(held)
        windows = windows + _following(tokens, owners, vocab_size)
    contexts = np.sort(np.argsort(-frequencies, kind="stable")[: min(CONTEXTS, int((frequencies > 0).sum()))])
    texts_by_token = sp.vstack(presence, format="csr")
    paragraphs = (texts_by_token.T.tocsr() @ texts_by_token[:, contexts]).tocsr()
    return paragraphs, (windows + windows.T).tocsr()[:, contexts]


def _following(tokens: np.ndarray, owners: np.ndarray, vocab_size: int) -> sp.csr_matrix:
    """Sum of 1/distance over the tokens that follow each token in its text (vocab_size, vocab_size)."""
    count = len(tokens)
    places = np.arange(count)[:, None] + np.arange(1, WINDOW + 1)
    is_near = places < count
    places = np.minimum(places, max(count - 1, 0))
    is_near &= owners[places] == owners[:, None]
    weights = is_near / np.arange(1, WINDOW + 1, dtype=np.float32)
    shape = (count, vocab_size)
    near = sp.csr_matrix((weights.ravel(), tokens[places].ravel(), np.arange(count + 1) * WINDOW), shape=shape)
    near.eliminate_zeros()
    at = sp.csr_matrix((np.ones(count, dtype=np.float32), tokens, np.arange(count + 1)), shape=shape)
    return at.T.tocsr() @ near


def positive_information(counts: sp.csr_matrix) -> sp.csr_matrix:
    """Positive pointwise mutual information max(0, log(p(context | token) / p'(context))), p' smoothed: float32."""
    pairs = counts.tocoo()
    tokens = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    contexts = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel() ** SMOOTHING
    contexts /= contexts.sum() or 1.0
    values = np.log(pairs.data / (tokens[pairs.row] * contexts[pairs.col])).astype(np.float32)
    is_positive = values > 0
    chosen = (values[is_positive], (pairs.row[is_positive], pairs.col[is_positive]))
    return sp.csr_matrix(chosen, shape=counts.shape)


def factorise(matrix: sp.csr_matrix, size: int) -> np.ndarray:
    """U sqrt(S) of the `size` largest singular values, scaled to rows of mean length 1: float32 (rows, size)."""
    rows = np.zeros((matrix.shape[0], size), dtype=np.float32)
    rank = min(size, *matrix.shape)
    if rank and matrix.nnz:
        left, scale, _ = randomized_svd(matrix, rank, n_iter=2, random_state=0)
        is_known = matrix.getnnz(axis=1) > 0
        rows[is_known, :rank] = (left * np.sqrt(scale))[is_known]  # the others are 0 but for rounding
        rows /= np.linalg.norm(rows[is_known], axis=1).mean()
    return rows
