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
from dataclasses import dataclass

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
"""Training texts that are compared in one go."""
EXAMPLES = 10
SUBSET_FILE = "subset.json"
SUBSET_KIND = "tlm_hf data subset"

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Leakage:
    """Which rows have a duplicate on the other side, bool, (training texts,) or (held-out texts,) each.

    A row that is exact is not near. `pairs` are some pairs of rows, the best for each training text: (pairs, 2).
    """

    training_exact: np.ndarray
    training_near: np.ndarray
    held_out_exact: np.ndarray
    held_out_near: np.ndarray
    pairs: np.ndarray

    @property
    def leaks(self) -> np.ndarray:
        """(training texts,) bool: a held-out text is an exact or a near duplicate."""
        return self.training_exact | self.training_near


@dataclass(frozen=True)
class SideCounts:
    """Rows of a side, those with an exact duplicate, and those with a near one alone."""

    rows: int
    exact: int
    near: int


@dataclass(frozen=True)
class LeakageReport:
    """What a folder says of one check between two splits: counts and the ids of some pairs, never a text."""

    between: tuple[str, str]
    training: SideCounts
    held_out: SideCounts
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
    """Find the texts with exact and near duplicates on the other side; memory grows with the held-out side."""
    keys = [normalise(text) for text in held_out]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    vocabulary: dict[tuple[str, ...], int] = {}
    matrix, sizes = _count(keys, vocabulary, learn=True)
    by_shingle = matrix.T.tocsr()
    exact_keys = set()
    training_exact, training_near = np.zeros(len(training), dtype=bool), np.zeros(len(training), dtype=bool)
    held_out_near = np.zeros(len(keys), dtype=bool)
    partner = np.full(len(training), -1, dtype=np.int64)
    for start in range(0, len(training), BATCH):
        batch = [normalise(text) for text in training[start : start + BATCH]]
        own, own_sizes = _count(batch, vocabulary, learn=False)
        shared = (own @ by_shingle).tocoo()
        smaller = np.minimum(own_sizes[shared.row], sizes[shared.col])
        is_near = shared.data >= NEAR_SHARE * smaller
        for row, other in zip(shared.row[is_near], shared.col[is_near], strict=True):
            if batch[row] != keys[other]:
                training_near[start + row] = held_out_near[other] = True
                partner[start + row] = other
        for row, key in enumerate(batch, start):
            if key in first:
                training_exact[row] = True
                partner[row] = first[key]
                exact_keys.add(key)
    held_out_exact = np.array([key in exact_keys for key in keys], dtype=bool)
    rows = np.flatnonzero(partner >= 0)
    return Leakage(
        training_exact=training_exact,
        training_near=training_near & ~training_exact,
        held_out_exact=held_out_exact,
        held_out_near=held_out_near & ~held_out_exact,
        pairs=np.stack([rows, partner[rows]], axis=1),
    )


def _count(
    keys: Sequence[str], vocabulary: dict[tuple[str, ...], int], *, learn: bool
) -> tuple[csr_matrix, np.ndarray]:
    """The known shingles of normalised texts, (texts, shingles), and how many different ones each text has."""
    columns: list[int] = []
    ends, sizes = [0], []
    for key in keys:
        words = key.split() if _WORD.search(key) else []
        shingles = set(zip(*(words[step:] for step in range(SHINGLE_WORDS)), strict=False))
        if learn:
            columns += [vocabulary.setdefault(shingle, len(vocabulary)) for shingle in shingles]
        else:
            columns += [vocabulary[shingle] for shingle in shingles & vocabulary.keys()]
        ends.append(len(columns))
        sizes.append(len(shingles))
    ones = np.ones(len(columns), dtype=np.int64)
    return csr_matrix((ones, columns, ends), shape=(len(keys), len(vocabulary))), np.array(sizes, dtype=np.int64)


def check_splits(training: datasets.Dataset, held_out: datasets.Dataset, between: tuple[str, str]) -> LeakageReport:
    """Report the leakage between two splits with the columns `text` and `id`."""
    found = find_leakage(training["text"], held_out["text"])
    ids, others = training[ID], held_out[ID]
    spread = np.unique(np.linspace(0, len(found.pairs) - 1, min(EXAMPLES, len(found.pairs))).astype(np.int64))
    examples = [
        {"training": ids[int(row)], "held_out": others[int(other)], "exact": bool(found.training_exact[row])}
        for row, other in found.pairs[spread]
    ]
    return LeakageReport(
        between,
        SideCounts(len(training), int(found.training_exact.sum()), int(found.training_near.sum())),
        SideCounts(len(held_out), int(found.held_out_exact.sum()), int(found.held_out_near.sum())),
        examples,
    )


def drop_leaking(split: datasets.Dataset, name: str, held_out: Iterable[datasets.Dataset]) -> datasets.Dataset:
    """The rows of a split that repeat no held-out text; its facts then have `leaking_rows_dropped`.

    Raises UserError where a class, or the split, has no row left.
    """
    leaks = np.zeros(len(split), dtype=bool)
    for other in held_out:
        leaks |= find_leakage(split["text"], other["text"]).leaks
    clean = split.select(np.flatnonzero(~leaks))
    facts = facts_of(split)
    facts["leaking_rows_dropped"] = facts.get("leaking_rows_dropped", 0) + int(leaks.sum())
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
