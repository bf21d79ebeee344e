"""Overlap-controlled subsets: from one corpus, equally large subsets with high, random and low overlap with a task.

The Jensen-Shannon divergence between the unigram distributions of subset (P) and task (Q) is minimal for `high` and
maximal for `low`, by conditional gradients (Frank and Wolfe, 1956): a round takes the texts whose tokens have the
lowest mean derivative (`low`: the highest), at the corpus' distribution first, then at a running mean of the subsets
(`high`) or at the last one (`low`); the best round wins. Every subset takes as many texts from each stratum of length.
Scores are sums of integers (derivatives in units of 2^-20 bits), so the order of summation does not matter.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from ..errors import UserError
from .overlap import count_tokens, jensen_shannon_bits
from .sources import seeded_order

KINDS = ("high", "random", "low")
TOLERANCE = 0.01  # the largest subset has at most so many more tokens (as a share) than the smallest
MARGIN = 0.4 * TOLERANCE
FLOOR = 0.01  # share of the corpus' distribution that is mixed in to keep derivatives finite
UNIT = 2**20  # scores to a bit
BISECTIONS, STRATUM = 60, 200  # of the price, and texts of a stratum of length


def divergence_gradient(P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Derivative of the Jensen-Shannon divergence (bits) with respect to P: 1/2 log2(2 P / (P + Q)), 0 where P is 0."""
    gradient, present = np.zeros(len(P)), P > 0
    gradient[present] = np.log2(2 * P[present] / (P[present] + Q[present])) / 2
    return gradient


def select_subsets(
    tokens: csr_matrix, texts: Sequence[str], task_train: np.ndarray, num_texts: int, *, seed: int = 0, rounds: int = 8
) -> dict[str, np.ndarray]:
    """Choose three subsets, indices in seeded order, int64 (num_texts,); `tokens` are those of `encode_texts`.

    `task_train` are the token counts of the task's training split alone, (vocab_size,). Raises UserError for sides
    without tokens, too few texts, or lengths too uneven for tokens within 1%.
    """
    corpus_counts = count_tokens(tokens)
    jensen_shannon_bits(corpus_counts, task_train)  # refuses sides without tokens
    rank = np.argsort(seeded_order(list(texts), seed))
    lengths = np.asarray(tokens.sum(axis=1)).ravel()
    usable = np.flatnonzero(lengths)
    if not 1 <= num_texts <= len(usable):
        raise UserError(f"{num_texts} texts per subset were asked for: give 1 to {len(usable)}, which have tokens.")
    strata = max(1, min(num_texts, len(usable) // STRATUM))
    while True:
        chooser = _Chooser(tokens, usable, rank[usable], num_texts, strata)
        high, low = (_search(chooser, corpus_counts, task_train, sign, rounds) for sign in (1, -1))
        choices = {"high": high, "random": usable[chooser.random], "low": low}
        sums = [int(lengths[chosen].sum()) for chosen in choices.values()]
        if max(sums) <= (1 + TOLERANCE) * min(sums):
            break
        if strata == num_texts:
            uneven = f"too uneven for {num_texts} texts with equal tokens ({min(sums)} to {max(sums)})"
            raise UserError(f"The lengths of the texts are {uneven}: ask for more texts, or a smaller max_length.")
        strata = min(num_texts, 2 * strata)
    return {kind: chosen[np.argsort(rank[chosen])] for kind, chosen in choices.items()}


class _Chooser:
    """Takes the texts with the lowest scores, its share from each stratum of length; `rank` breaks ties.

    `usable` are the indices of the n texts that have tokens. Where tokens differ by more than `MARGIN` from those of
    `random`, a price per token is added to the scores.
    """

    def __init__(self, tokens: csr_matrix, usable: np.ndarray, rank: np.ndarray, num_texts: int, strata: int) -> None:
        self.tokens, self.usable, self.rank = tokens, usable, rank
        self.counts = tokens[usable]
        self.lengths = np.asarray(self.counts.sum(axis=1)).ravel()
        texts = len(usable)
        bounds = np.arange(strata + 1) * texts // strata
        self.first, self.quota = bounds[:-1], np.diff(bounds * num_texts // texts)  # quotas sum to `num_texts`
        self.stratum = np.empty(texts, dtype=np.int64)
        self.stratum[np.lexsort((rank, self.lengths))] = np.repeat(np.arange(strata), np.diff(bounds))
        self.random = self._take(np.zeros(texts))
        self.target = int(self.lengths[self.random].sum())

    def take(self, scores: np.ndarray) -> np.ndarray:
        """Indices (into `usable`) of the chosen texts, given scores (n,)."""
        highest, price = np.ptp(scores) + 1, 0.0
        lowest = -highest
        for _ in range(BISECTIONS):  # a higher price never takes more tokens
            chosen = self._take(scores + price * self.lengths)
            excess = int(self.lengths[chosen].sum()) - self.target
            if abs(excess) <= MARGIN * self.target:
                break
            lowest, highest = (price, highest) if excess > 0 else (lowest, price)
            price = (lowest + highest) / 2
        return chosen

    def _take(self, scores: np.ndarray) -> np.ndarray:
        order = np.lexsort((self.rank, scores, self.stratum))
        stratum = self.stratum[order]
        return order[np.arange(len(order)) - self.first[stratum] < self.quota[stratum]]

    def score(self, gradient: np.ndarray) -> np.ndarray:
        """Mean of the tokens' gradients by text, in units of 1 / UNIT, (n,)."""
        return (self.counts @ np.rint(gradient * UNIT).astype(np.int64)) / self.lengths


def _search(chooser: _Chooser, corpus_counts: np.ndarray, task_train: np.ndarray, sign: int, rounds: int) -> np.ndarray:
    """The subset with the smallest `sign` times divergence over the rounds."""
    source, Q = corpus_counts / corpus_counts.sum(), task_train / task_train.sum()
    point, best, lowest = source, np.zeros(0, dtype=np.int64), np.inf
    for turn in range(1, rounds + 1):
        gradient = divergence_gradient((1 - FLOOR) * point + FLOOR * source, Q)
        chosen = chooser.usable[chooser.take(sign * chooser.score(gradient))]
        counts = count_tokens(chooser.tokens[chosen])
        divergence = sign * jensen_shannon_bits(counts, task_train)
        if divergence < lowest:
            best, lowest = chosen, divergence
        step = 2 / (turn + 1) if sign > 0 else 1.0
        point = point + step * (counts / counts.sum() - point)
    return best
