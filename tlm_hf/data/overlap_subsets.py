"""Overlap-controlled subsets: from one corpus, equally large subsets with high, random and low overlap with a task.

The objective is the Jensen-Shannon divergence between the subset's unigram distribution P and Q, that of the task's
training split: minimal for `high`, maximal for `low`.

The algorithm is the conditional gradient method (Frank and Wolfe, Naval Research Logistics Quarterly 3, 1956). The
derivative of the divergence is g(v) = 1/2 log2(P(v) / M(v)) with M = (P + Q) / 2, so a text scores the mean g of its
tokens, and a round takes the texts with the lowest scores (`high`) or the highest (`low`). The first round linearises
at the corpus' distribution; later ones at a running mean of the subsets (`high`: round t moves it by 2 / (t + 1)) or at
the last subset (`low`). `FLOOR` of the corpus' distribution is mixed in to keep g finite. The best round wins.

Texts are sorted by length into strata of about `STRATUM`, and every subset takes the same number from each. Where its
tokens still differ by more than `MARGIN` from those of `random`, a price per token, found by bisection, is added to the
scores; where that fails, the strata become finer. `random` takes texts in seeded order, which also breaks ties. Scores
are sums of integers (g in units of 2^-20 bits), so the order of summation does not matter.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.sparse import csr_matrix
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from ..runs.atomic_files import Json
from .leakage import check_splits
from .overlap import count_tokens, encode_texts, jensen_shannon_bits
from .prepare import Prepared, published
from .sources import ID, describe_split, facts_of, seeded_order

logger = logging.getLogger(__name__)

KINDS = ("high", "random", "low")
TOLERANCE = 0.01
"""The largest subset has at most so many more tokens (as a share) than the smallest."""
MARGIN = 0.4 * TOLERANCE
ROUNDS = 8
FLOOR = 0.01
UNIT = 2**20
BISECTIONS = 60
STRATUM = 200
SOURCE_FACTS = ("source", "config", "revision", "unit")
"""Facts of the corpus that each published subset repeats."""


@dataclass(frozen=True)
class Subset:
    """Indices of the chosen texts in seeded order, int64 (num_texts,), their tokens and divergence to the task."""

    indices: np.ndarray
    tokens: int
    jensen_shannon_bits: float


def divergence_gradient(P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Derivative of the Jensen-Shannon divergence (bits) with respect to P: 1/2 log2(2 P / (P + Q)), 0 where P is 0."""
    gradient = np.zeros(len(P))
    present = P > 0
    gradient[present] = np.log2(2 * P[present] / (P[present] + Q[present])) / 2
    return gradient


def select_subsets(
    tokens: csr_matrix,
    texts: Sequence[str],
    task_train: np.ndarray,
    num_texts: int,
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> dict[str, Subset]:
    """Choose the three subsets of `num_texts` texts (objective and algorithm: see the module).

    `tokens` are what `encode_texts` makes of `texts`, which with the seed give the order; `task_train` are the token
    counts of the task's training split alone, (vocab_size,).

    Raises:
        UserError: a task or corpus without tokens, more texts asked for than have tokens, or lengths too uneven for
            tokens within 1%.
    """
    corpus_counts = count_tokens(tokens)
    jensen_shannon_bits(corpus_counts, task_train)  # refuses sides without tokens
    rank = np.empty(len(texts), dtype=np.int64)
    rank[seeded_order(list(texts), seed)] = np.arange(len(texts))
    lengths = np.asarray(tokens.sum(axis=1)).ravel()
    usable = np.flatnonzero(lengths)
    if not 1 <= num_texts <= len(usable):
        raise UserError(
            f"{num_texts} texts per subset were asked for, but {len(usable)} texts of the corpus have tokens: ask for "
            f"1 to {len(usable)}."
        )
    strata = max(1, min(num_texts, len(usable) // STRATUM))
    while True:
        chooser = _Chooser(tokens, usable, rank[usable], num_texts, strata)
        choices = {
            "high": _search(chooser, corpus_counts, task_train, 1, rounds),
            "random": usable[chooser.random],
            "low": _search(chooser, corpus_counts, task_train, -1, rounds),
        }
        sums = [int(lengths[chosen].sum()) for chosen in choices.values()]
        if max(sums) <= (1 + TOLERANCE) * min(sums):
            break
        if strata == num_texts:
            raise UserError(
                f"The lengths of the texts are too uneven for subsets of {num_texts} texts with equal tokens "
                f"(they would have {min(sums)} to {max(sums)}): ask for more texts, or set a smaller max_length."
            )
        strata = min(num_texts, 2 * strata)
    subsets = {}
    for (kind, chosen), total in zip(choices.items(), sums, strict=True):
        indices = chosen[np.argsort(rank[chosen])]
        subsets[kind] = Subset(indices, total, jensen_shannon_bits(count_tokens(tokens, indices), task_train))
    return subsets


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
    """The three subsets of a corpus as splits `high`, `random`, `low`, described by their facts and `facts`.

    `corpus` has `text` and `id`; `task_train` is the task's training split alone. Raises UserError as `select_subsets`.
    """
    texts = list(corpus["text"])
    task_counts = count_tokens(encode_texts(list(task_train["text"]), tokenizer, max_length))
    tokens = encode_texts(texts, tokenizer, max_length)
    subsets = select_subsets(tokens, texts, task_counts, num_texts, seed=seed)
    return subset_splits(corpus, subsets, max_length=max_length, seed=seed, **facts)


def subset_splits(corpus: datasets.Dataset, subsets: dict[str, Subset], **facts: Any) -> datasets.DatasetDict:
    """What `select_subsets` chose from `corpus`, as described splits with `text` and `id`."""
    rows = corpus.select_columns(["text", ID])
    splits = {}
    for kind, subset in subsets.items():
        of_subset = {key: value for key, value in vars(subset).items() if key != "indices"}
        chosen = rows.select(subset.indices)
        splits[kind] = describe_split(chosen, overlap=kind, texts=len(chosen), **of_subset, **facts)
    return datasets.DatasetDict(splits)


def task_stem(name: str) -> str:
    """What a task's configurations are named after: the last part of its name in letters, digits, dots and dashes."""
    return re.sub(r"[^\w.-]+", "-", Path(name).stem).strip("-.")


def add_configs(
    prepared: Prepared,
    name: str,
    subsets: datasets.DatasetDict,
    corpus: datasets.DatasetDict,
    task_test: datasets.Dataset,
    measures: Json,
    tokenizer: Json,
) -> None:
    """Add one task's subsets to a data set folder as configurations TASK-high, TASK-random and TASK-low.

    Each has the subset as `train` and the corpus' held-out texts as `validation`, so that losses are comparable. The
    training texts are checked against both held-out texts and `task_test`; the card shows the `measures` by kind.
    """
    whole, stem = facts_of(corpus["train"]), task_stem(name)
    source = {key: whole[key] for key in SOURCE_FACTS if key in whole}
    validation = published(corpus["validation"])
    for kind, subset in subsets.items():
        facts = facts_of(subset) | source | {"corpus": whole, "measures": measures[kind], "tokenizer": tokenizer}
        train = describe_split(subset, **facts)
        prepared.configs[f"{stem}-{kind}"] = datasets.DatasetDict(train=train, validation=validation)
        checks = [check_splits(train, validation, ("train", "validation"))]
        checks.append(check_splits(train, task_test, ("train", f"{stem} test")))
        prepared.leakage[f"{stem}-{kind}"] = checks
        for check in checks:
            if check.leaking:
                logger.warning("Note: %s texts of %s-%s repeat %s.", check.leaking, stem, kind, check.between[1])


class _Chooser:
    """Takes the `num_texts` texts with the lowest scores, its share from each stratum of length.

    `usable` are the indices of the texts that have tokens, (n,); `rank` their places in the seeded order.
    """

    def __init__(self, tokens: csr_matrix, usable: np.ndarray, rank: np.ndarray, num_texts: int, strata: int) -> None:
        self.tokens, self.usable, self.rank = tokens, usable, rank
        self.counts = tokens[usable]
        self.lengths = np.asarray(self.counts.sum(axis=1)).ravel()
        texts = len(usable)
        bounds = np.arange(strata + 1) * texts // strata
        self.first = bounds[:-1]
        # A stratum's quota is its share of `num_texts`, rounded so that the sum holds.
        self.quota = np.diff(bounds * num_texts // texts)
        self.stratum = np.empty(texts, dtype=np.int64)
        self.stratum[np.lexsort((rank, self.lengths))] = np.repeat(np.arange(strata), np.diff(bounds))
        self.random = self._take(np.zeros(texts))
        self.target = int(self.lengths[self.random].sum())

    def take(self, scores: np.ndarray) -> np.ndarray:
        """Indices (into `usable`) of the chosen texts, given scores (n,)."""
        lowest = -(np.ptp(scores) + 1)
        highest, price = -lowest, 0.0
        for _ in range(BISECTIONS):  # a higher price never takes more tokens
            chosen = self._take(scores + price * self.lengths)
            excess = int(self.lengths[chosen].sum()) - self.target
            if abs(excess) <= MARGIN * self.target:
                break
            if excess > 0:
                lowest = price
            else:
                highest = price
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
    source = corpus_counts / corpus_counts.sum()
    Q = task_train / task_train.sum()
    point = source
    best, lowest = np.zeros(0, dtype=np.int64), np.inf
    for turn in range(1, rounds + 1):
        gradient = divergence_gradient((1 - FLOOR) * point + FLOOR * source, Q)
        chosen = chooser.usable[chooser.take(sign * chooser.score(gradient))]
        counts = count_tokens(chooser.tokens, chosen)
        divergence = sign * jensen_shannon_bits(counts, task_train)
        if divergence < lowest:
            best, lowest = chosen, divergence
        step = 2 / (turn + 1) if sign > 0 else 1.0
        point = point + step * (counts / counts.sum() - point)
    return best
