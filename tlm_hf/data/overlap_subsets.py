"""Overlap-controlled subsets: from one corpus, equally large subsets with high, random and low overlap with a task.

The objective is the Jensen-Shannon divergence between the subset's unigram distribution P and Q, that of the task's
training split (see `overlap.jensen_shannon_bits`): as small as possible for `high`, as large as possible for `low`. It
still separates subsets that all cover nearly every token of the task.

The algorithm is the conditional gradient method (Frank and Wolfe, Naval Research Logistics Quarterly 3, 1956) over
subsets. The derivative of the divergence with respect to P(v) is

    g(v) = 1/2 log2(P(v) / M(v)),   M = (P + Q) / 2   (bits; at most 1/2),

so a text with tokens v_1 ... v_L has the score (g(v_1) + ... + g(v_L)) / L, the rate at which the divergence changes
when P moves towards the text (but for a constant). A round takes the texts with the lowest scores (`high`) or the
highest (`low`). The first round linearises at the whole corpus' distribution, the later ones at the subsets' own: for
`high` at a mean of the rounds so far (round t moves it by the share 2 / (t + 1)), for `low` at the last one's (the
divergence is convex in P, so such whole steps climb). A share `FLOOR` of the corpus' distribution is mixed in, so that
g is finite for tokens that a subset lacks. The subset of the best round is kept.

Texts are sorted by length in tokens and cut into strata of about `STRATUM` texts, and every subset takes the same
number of texts from each. Where its tokens still differ by more than 0.4% from those of `random`, a price per token,
found by bisection, is added to the scores of `high` or `low`; where one text more or less is too much for that (small
subsets), the strata become finer. So texts are equal, and tokens within 1%.

`random` takes texts in seeded order, the same for every task that needs the same strata. Ties go by that order too.
Scores are sums of integers (g in units of 2^-20 bits), so that they do not depend on the order of summation. The same
inputs give the same subsets on one machine and its libraries; a logarithm that is rounded otherwise elsewhere, or the
floating-point prices, may exchange a few texts of nearly equal score there, so compare the SHA-256 of the facts.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from .overlap import TokenTexts, count_tokens, encode_texts, jensen_shannon_bits
from .sources import seeded_order
from .subsets import ID, describe_split

KINDS = ("high", "random", "low")
TOLERANCE = 0.01
"""Largest tokens of a subset are at most so much (as a share) above the smallest."""
ROUNDS = 8
FLOOR = 0.01
UNIT = 2**20
BLOCK = 50_000
BISECTIONS = 60
STRATUM = 200
MARGIN = 0.4 * TOLERANCE


def divergence_gradient(P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Derivative of the Jensen-Shannon divergence (bits) with respect to P: 1/2 log2(2 P / (P + Q)).

    Args:
        P: positive wherever the derivative is used, (vocab_size,).
        Q: the other distribution, (vocab_size,).

    Returns:
        float64 (vocab_size,); 0 where P is 0.
    """
    gradient = np.zeros(len(P))
    present = P > 0
    gradient[present] = np.log2(2 * P[present] / (P[present] + Q[present])) / 2
    return gradient


def select_subsets(
    tokens: TokenTexts, texts: Sequence[str], task_train: np.ndarray, num_texts: int, *, seed: int = 0,
    rounds: int = ROUNDS,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:  # fmt: skip
    """Choose the three subsets (objective and algorithm: see the module).

    Args:
        tokens: the tokenised corpus.
        texts: its texts, as many; their SHA-256 with the seed gives the order (`sources.seeded_order`).
        task_train: token counts of the task's training split alone, (vocab_size,).
        num_texts: texts of each subset.
        seed: chooses the random subset and breaks ties, of scores and of lengths.
        rounds: linearisations, at least 1.

    Returns:
        By kind (`high`, `random`, `low`) the indices of the chosen texts in seeded order, int64 (num_texts,), and their
        facts: `texts`, `tokens`, `jensen_shannon_bits` to the training split and `divergence_by_round`.

    Raises:
        UserError: a task or corpus without tokens, more texts asked for than have tokens, or lengths too uneven for
            tokens within 1%.
    """
    corpus_counts = count_tokens(tokens)
    jensen_shannon_bits(corpus_counts, task_train)  # refuses sides without tokens and unequal vocabularies
    if len(texts) != len(tokens):
        raise UserError(f"{len(texts)} texts but {len(tokens)} tokenised ones: give the same texts to both.")
    rank = np.empty(len(texts), dtype=np.int64)
    rank[seeded_order(list(texts), seed)] = np.arange(len(texts))
    usable = np.flatnonzero(tokens.lengths)
    if not 1 <= num_texts <= len(usable):
        raise UserError(
            f"{num_texts} texts per subset were asked for, but {len(usable)} texts of the corpus have tokens: ask for "
            f"1 to {len(usable)}."
        )
    source = corpus_counts / corpus_counts.sum()
    Q = task_train / task_train.sum()
    strata = max(1, min(num_texts, len(usable) // STRATUM))
    while True:
        chooser = _Chooser(tokens, usable, rank[usable], num_texts, strata)
        chosen = {"random": usable[chooser.random]}
        history: dict[str, list[float]] = {"random": []}
        for kind, sign in (("high", 1), ("low", -1)):
            chosen[kind], history[kind] = _search(chooser, source, Q, task_train, sign, rounds)
        sums = [int(tokens.lengths[chosen[kind]].sum()) for kind in KINDS]
        if max(sums) <= (1 + TOLERANCE) * min(sums):
            break
        if strata == num_texts:
            raise UserError(
                f"The lengths of the texts are too uneven for subsets of {num_texts} texts with equal tokens "
                f"({min(sums)} to {max(sums)} were found): ask for more texts, or cut them with a smaller max_length."
            )
        strata = min(num_texts, 2 * strata)
    found, facts = {}, {}
    for kind, total in zip(KINDS, sums, strict=True):
        found[kind] = chosen[kind][np.argsort(rank[chosen[kind]])]
        facts[kind] = {
            "texts": len(found[kind]),
            "tokens": total,
            "jensen_shannon_bits": jensen_shannon_bits(count_tokens(tokens, found[kind]), task_train),
            "divergence_by_round": history[kind],
        }
    return found, facts


def overlap_subsets(
    corpus: datasets.Dataset,
    task_train: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    num_texts: int,
    *,
    max_length: int | None = None,
    seed: int = 0,
    **facts: Any,
) -> datasets.DatasetDict:
    """The three subsets of a corpus as splits `high`, `random`, `low`, each described by its facts.

    Args:
        corpus: with `text` and `id`.
        task_train: the task's training split alone, with `text`.
        tokenizer: whose tokens are compared.
        num_texts: texts of each subset.
        max_length: tokens of each text that count, special tokens included; None for whole texts.
        seed: see `select_subsets`.
        **facts: what else to keep with each (see `subsets.describe_split`), such as `source` and `task`.

    Raises:
        UserError: as `select_subsets`, or a whole task in place of its training split.
    """
    if isinstance(task_train, dict):
        raise UserError("Subsets are chosen by a task's training split alone: give task['train'], not the whole task.")
    texts = list(corpus["text"])
    task_counts = count_tokens(encode_texts(list(task_train["text"]), tokenizer, max_length))
    chosen, found = select_subsets(encode_texts(texts, tokenizer, max_length), texts, task_counts, num_texts, seed=seed)
    return subset_splits(corpus, chosen, found, max_length=max_length, seed=seed, **facts)


def subset_splits(
    corpus: datasets.Dataset, chosen: dict[str, np.ndarray], found: dict[str, dict[str, Any]], **facts: Any
) -> datasets.DatasetDict:
    """What `select_subsets` chose from `corpus`, as described splits with `text` and `id`."""
    rows = corpus.select_columns(["text", ID])
    return datasets.DatasetDict(
        {kind: describe_split(rows.select(chosen[kind]), overlap=kind, **found[kind], **facts) for kind in KINDS}
    )


class _Chooser:
    """Takes the texts with the lowest scores from each stratum of length.

    Args:
        tokens: the tokenised corpus.
        usable: indices of its texts that have tokens, rising, (n,).
        rank: their places in the seeded order, (n,).
        num_texts: how many to take.
        strata: how many strata, at most `num_texts`.
    """

    def __init__(self, tokens: TokenTexts, usable: np.ndarray, rank: np.ndarray, num_texts: int, strata: int) -> None:
        self.tokens, self.usable, self.rank = tokens, usable, rank
        self.lengths = tokens.lengths[usable]
        self.starts = tokens.offsets[usable]  # those of texts without tokens would break reduceat
        texts = len(usable)
        bounds = np.arange(strata + 1) * texts // strata
        self.first = bounds[:-1]
        # A stratum's quota is its share of `num_texts`, rounded so that the sum holds.
        self.quota = np.diff(bounds * num_texts // texts)
        self.stratum = np.empty(texts, dtype=np.int64)
        self.stratum[np.lexsort((rank, self.lengths))] = np.repeat(np.arange(strata), np.diff(bounds))
        self.random = self._take(np.zeros(texts))
        self.target = int(self.lengths[self.random].sum())

    def _take(self, scores: np.ndarray) -> np.ndarray:
        order = np.lexsort((self.rank, scores, self.stratum))
        stratum = self.stratum[order]
        return order[np.arange(len(order)) - self.first[stratum] < self.quota[stratum]]

    def take(self, scores: np.ndarray) -> np.ndarray:
        """Indices (into the corpus) of the chosen texts, given scores (n,)."""
        lowest = -(np.ptp(scores) + 1)
        highest, price = -lowest, 0.0
        for _ in range(BISECTIONS):  # a higher price never takes more tokens
            taken = self._take(scores + price * self.lengths)
            beyond = int(self.lengths[taken].sum()) - self.target
            if abs(beyond) <= MARGIN * self.target:
                break
            lowest, highest = (price, highest) if beyond > 0 else (lowest, price)
            price = (lowest + highest) / 2
        return self.usable[taken]

    def score(self, gradient: np.ndarray) -> np.ndarray:
        """Mean of the tokens' gradients by text, in units of 1 / UNIT, (n,)."""
        weights = np.rint(gradient * UNIT).astype(np.int64)
        sums = [np.zeros(0, dtype=np.int64)]
        for first in range(0, len(self.starts), BLOCK):  # in parts, since a gradient takes twice the memory of an id
            starts = self.starts[first : first + BLOCK]
            following = self.starts[first + BLOCK :]
            ids = self.tokens.ids[starts[0] : following[0] if len(following) else None]
            sums.append(np.add.reduceat(weights[ids], starts - starts[0]))
        return np.concatenate(sums) / self.lengths


def _search(
    chooser: _Chooser, source: np.ndarray, Q: np.ndarray, task_train: np.ndarray, sign: int, rounds: int
) -> tuple[np.ndarray, list[float]]:
    """The subset with the smallest `sign` times divergence over the rounds, and each round's divergence."""
    point = source
    best = (np.zeros(0, dtype=np.int64), np.inf)
    history: list[float] = []
    for turn in range(1, max(1, rounds) + 1):
        gradient = divergence_gradient((1 - FLOOR) * point + FLOOR * source, Q)
        chosen = chooser.take(sign * chooser.score(gradient))
        counts = count_tokens(chooser.tokens, chosen)
        history.append(jensen_shannon_bits(counts, task_train))
        if sign * history[-1] < best[1]:
            best = (chosen, sign * history[-1])
        step = 2 / (turn + 1) if sign > 0 else 1.0
        point = point + step * (counts / counts.sum() - point)
    return best[0], history
