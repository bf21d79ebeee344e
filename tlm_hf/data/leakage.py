"""Leakage: which training texts repeat held-out texts, word for word or nearly so.

The *words* of a text are its runs of letters and digits after NFKC and case folding; a text without any word is taken
as it is, white space aside. Texts with equal words are *exact duplicates*. A *shingle* is five successive words. Other
texts are *near duplicates* when they share at least 80% of the different shingles of the one that has fewer
(containment, so that a sentence inside a paragraph counts). Every pair counts: nothing is sampled or hashed.

Five-word shingles and containment follow Broder 1997, "On the resemblance and containment of documents", and Lee et al.
2022, arXiv 2107.06499.
"""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import datasets
import numpy as np
from scipy.sparse import csr_matrix

from ..errors import UserError
from ..runs.atomic_files import Json
from .sources import ID, describe_split, facts_of

logger = logging.getLogger(__name__)

SHINGLE_WORDS = 5
NEAR_SHARE = 0.8
BATCH = 250
"""Texts of the larger side that are compared in one go."""
EXAMPLES = 10
SUBSET_FILE = "subset.json"
SUBSET_KIND = "tlm_hf data subset"

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Side:
    """Duplicates of each row of one side on the other, (rows,) each.

    `share` is the largest share of shingles (1 for an exact duplicate), `exact` whether there is an exact duplicate,
    `partner` the best duplicate's row: exact before near, then the largest share, then the first; -1 for none.
    """

    share: np.ndarray
    exact: np.ndarray
    partner: np.ndarray

    @property
    def leaks(self) -> np.ndarray:
        """(rows,) bool: the other side has an exact or a near duplicate."""
        return self.partner >= 0

    def counts(self) -> "SideCounts":
        """How many rows leak."""
        rows, exact, leaks = len(self.share), int(self.exact.sum()), int(self.leaks.sum())
        return SideCounts(rows, exact, leaks - exact, round(leaks / rows, 6) if rows else 0.0)


@dataclass(frozen=True)
class SideCounts:
    """Rows of a side, those with an exact duplicate, those with a near one alone, and the share of both together."""

    rows: int
    exact: int
    near: int
    share: float


@dataclass(frozen=True)
class Leakage:
    """Duplicates between training texts and held-out texts: both sides, and how many pairs there are of each kind."""

    training: Side
    held_out: Side
    exact_pairs: int
    near_pairs: int


@dataclass(frozen=True)
class LeakageReport:
    """What a folder says of one check between two splits: counts and the ids of some pairs, never a text."""

    between: tuple[str, str]
    training: SideCounts
    held_out: SideCounts
    pairs: dict[str, int]
    examples: list[Json]
    shingle_words: int = SHINGLE_WORDS
    near_share: float = NEAR_SHARE

    @property
    def leaking(self) -> int:
        """Training texts with an exact or a near duplicate."""
        return self.training.exact + self.training.near


def normalise(text: str) -> str:
    """The text that exact duplicates share: its words with one space between them, see the module."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) or " ".join(text.split())


def find_leakage(training: Sequence[str], held_out: Sequence[str]) -> Leakage:
    """Find every exact and near duplicate between two lists or columns of texts; memory grows with the smaller side."""
    if len(training) < len(held_out):
        turned = find_leakage(held_out, training)
        return replace(turned, training=turned.held_out, held_out=turned.training)
    index = _Index(held_out)
    empty = np.zeros(0, dtype=np.int64)
    batches = [(empty, empty, np.zeros(0))]
    for start in range(0, len(training), BATCH):
        rows, groups, scores = index.duplicates(training[start : start + BATCH])
        batches.append((rows + start, groups, scores))
    rows, groups, scores = (np.concatenate(part) for part in zip(*batches, strict=True))
    by_group = _best(groups, rows, scores, len(index.sizes))
    return Leakage(
        training=_best(rows, index.first[groups], scores, len(training)),
        held_out=Side(by_group.share[index.group], by_group.exact[index.group], by_group.partner[index.group]),
        exact_pairs=int(index.sizes[groups[scores > 1]].sum()),
        near_pairs=int(index.sizes[groups[scores <= 1]].sum()),
    )


class _Index:
    """The different texts of the smaller side and their shingles.

    Equal texts are a group: `group` (rows,), `first` row and `sizes` (groups,), `lengths` (groups,) in shingles, and
    `by_shingle` (shingles, groups), sparse, 1 where the text has the shingle.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.numbers: dict[str, int] = {}
        self.shingles: dict[tuple[str, ...], int] = {}
        keys = (normalise(text) for text in texts)
        self.group = np.array([self.numbers.setdefault(key, len(self.numbers)) for key in keys], dtype=np.int64)
        _, self.first, self.sizes = np.unique(self.group, return_index=True, return_counts=True)
        matrix, self.lengths = self._count(self.numbers, learn=True)
        self.by_shingle = matrix.T.tocsr()

    def duplicates(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of duplicates: row of `texts`, group of the index, and the share (2 for an exact duplicate)."""
        keys = [normalise(text) for text in texts]
        same = np.array([self.numbers.get(key, -1) for key in keys], dtype=np.int64)
        exact = np.flatnonzero(same >= 0)
        matrix, lengths = self._count(keys, learn=False)
        shared = (matrix @ self.by_shingle).tocoo()
        rows, groups = shared.row.astype(np.int64), shared.col.astype(np.int64)
        share = shared.data / np.minimum(lengths[rows], self.lengths[groups])
        near = (share >= NEAR_SHARE) & (same[rows] != groups)
        return (
            np.concatenate([exact, rows[near]]),
            np.concatenate([same[exact], groups[near]]),
            np.concatenate([np.full(len(exact), 2.0), share[near]]),
        )

    def _count(self, keys: Iterable[str], *, learn: bool) -> tuple[csr_matrix, np.ndarray]:
        """The known shingles of normalised texts, (texts, shingles), and how many different ones each text has."""
        columns: list[int] = []
        ends, lengths = [0], []
        for key in keys:
            words = key.split() if _WORD.search(key) else []
            shingles = set(zip(*(words[step:] for step in range(SHINGLE_WORDS)), strict=False))
            if learn:
                columns += [self.shingles.setdefault(shingle, len(self.shingles)) for shingle in shingles]
            else:
                columns += [self.shingles[shingle] for shingle in shingles & self.shingles.keys()]
            ends.append(len(columns))
            lengths.append(len(shingles))
        shape = (len(lengths), len(self.shingles))
        return csr_matrix((np.ones(len(columns), dtype=np.int64), columns, ends), shape=shape), np.array(lengths)


def _best(rows: np.ndarray, partners: np.ndarray, scores: np.ndarray, count: int) -> Side:
    """The best partner of each of `count` rows: the highest score, then the lowest partner."""
    order = np.lexsort((partners, -scores, rows))
    first = order[np.unique(rows[order], return_index=True)[1]]
    score = np.zeros(count)
    partner = np.full(count, -1, dtype=np.int64)
    score[rows[first]] = scores[first]
    partner[rows[first]] = partners[first]
    return Side(np.minimum(score, 1.0), score > 1, partner)


def check_splits(training: datasets.Dataset, held_out: datasets.Dataset, between: tuple[str, str]) -> LeakageReport:
    """Report the leakage between two splits with the columns `text` and `id`; examples are spread over the second."""
    leakage = find_leakage(training["text"], held_out["text"])
    side = leakage.held_out
    rows = np.flatnonzero(side.leaks)
    spread = rows[np.unique(np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).round().astype(np.int64))]
    training_ids, held_out_ids = training[ID], held_out[ID]
    examples = []
    for row in spread:
        ids = {"training": training_ids[int(side.partner[row])], "held_out": held_out_ids[int(row)]}
        examples.append({**ids, "share": round(float(side.share[row]), 4), "exact": bool(side.exact[row])})
    pairs = {"exact": leakage.exact_pairs, "near": leakage.near_pairs}
    return LeakageReport(between, leakage.training.counts(), side.counts(), pairs, examples)


def drop_leaking(split: datasets.Dataset, name: str, held_out: Iterable[datasets.Dataset]) -> datasets.Dataset:
    """The rows of a split that repeat no held-out text; its facts then have `leaking_rows_dropped`.

    Raises UserError where a class, or the split, has no row left.
    """
    leaks = np.zeros(len(split), dtype=bool)
    for other in held_out:
        leaks |= find_leakage(split["text"], other["text"]).training.leaks
    clean = split.select(np.flatnonzero(~leaks))
    facts = {**facts_of(split), "leaking_rows_dropped": int(leaks.sum())}
    counts = {f"the split {name}": len(clean)}
    if "label" in split.column_names:
        by_label = Counter(clean["label"])
        counts = {label: by_label[index] for index, label in enumerate(split.features["label"].names)}
        facts["per_label"] = counts
    for label, count in counts.items():
        if not count:
            raise UserError(
                f"Every text of {label!r} in {name} repeats a held-out text (--drop-leakage): give more texts of it."
            )
    if leaks.any():
        left = ", ".join(f"{count} of {label}" for label, count in counts.items())
        logger.warning(
            "Note: %s texts of %s repeat held-out texts and were dropped; left are %s.", leaks.sum(), name, left
        )
    return describe_split(clean, **facts)
