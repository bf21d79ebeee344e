"""Leakage: which training texts repeat held-out texts, word for word or nearly so.

The *words* of a text are its runs of letters and digits after NFKC and case folding; a text without any word is taken
as it is, white space aside. Texts with equal words are *exact duplicates*. Other texts are *near duplicates* when they
share at least 80% of the different shingles (five successive words) of the one that has fewer. Every pair counts.
Shingles and containment: Broder 1997, "On the resemblance and containment of documents"; Lee et al., arXiv 2107.06499.
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
from .sources import describe_split, facts_of

logger = logging.getLogger(__name__)

SHINGLE_WORDS = 5
NEAR_SHARE = 0.8
BATCH = 250
"""Training texts that are compared in one go."""
SUBSET_FILE = "subset.json"
SUBSET_KIND = "tlm_hf data subset"

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class LeakageReport:
    """One check of a training split against a held-out one: rows of both, and training rows that leak."""

    between: tuple[str, str]
    rows: int
    held_out_rows: int
    exact: int
    near: int
    """Training rows with a near duplicate alone."""

    @property
    def leaking(self) -> int:
        """Training texts with an exact or a near duplicate."""
        return self.exact + self.near


def normalise(text: str) -> str:
    """The text that exact duplicates share: its words with one space between them, see the module."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) or " ".join(text.split())


def find_leakage(training: Sequence[str], held_out: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which training texts have an exact duplicate among the held-out texts, and which a near one alone.

    Returns two arrays, bool (training texts,); memory grows with the held-out side.
    """
    keys = [normalise(text) for text in held_out]
    known = set(keys)
    vocabulary: dict[tuple[str, ...], int] = {}
    matrix, sizes = _count(keys, vocabulary, learn=True)
    by_shingle = matrix.T.tocsr()
    exact, near = np.zeros(len(training), dtype=bool), np.zeros(len(training), dtype=bool)
    for start in range(0, len(training), BATCH):
        batch = [normalise(text) for text in training[start : start + BATCH]]
        own, own_sizes = _count(batch, vocabulary, learn=False)
        shared = (own @ by_shingle).tocoo()
        is_near = shared.data >= NEAR_SHARE * np.minimum(own_sizes[shared.row], sizes[shared.col])
        near[start + shared.row[is_near]] = True
        exact[start : start + len(batch)] = [key in known for key in batch]
    return exact, near & ~exact


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
    """Report the leakage between two splits with the column `text`."""
    exact, near = find_leakage(training["text"], held_out["text"])
    return LeakageReport(between, len(training), len(held_out), int(exact.sum()), int(near.sum()))


def drop_leaking(split: datasets.Dataset, name: str, held_out: Iterable[datasets.Dataset]) -> datasets.Dataset:
    """The rows of a split that repeat no held-out text; its facts then have `leaking_rows_dropped`.

    Raises UserError where a class, or the split, has no row left.
    """
    leaks = np.zeros(len(split), dtype=bool)
    for other in held_out:
        leaks |= np.logical_or(*find_leakage(split["text"], other["text"]))
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
