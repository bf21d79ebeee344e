"""Leakage: which training texts repeat held-out texts, word for word or nearly so.

Words are runs of letters and digits after NFKC and case folding. Near duplicates share at least 80% of the different
shingles (five successive words) of the one that has fewer (Broder 1997; Lee et al., arXiv 2107.06499).
"""

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence

import datasets
import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from ..errors import UserError
from .kinds import per_label

logger = logging.getLogger(__name__)

SHINGLE_WORDS, NEAR_SHARE = 5, 0.8
BATCH = 250  # training texts that are compared in one go

_WORD = re.compile(r"[^\W_]+")


def normalise(text: str) -> str:
    """The text that exact duplicates share: its words with one space between them; without any, all of it."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())) or " ".join(text.split())


def find_leakage(training: Sequence[str], held_out: Sequence[str]) -> np.ndarray:
    """Which training texts have a duplicate, exact or near, among the held-out texts: bool (n,)."""
    ours, theirs = ([normalise(text) for text in texts] for texts in (training, held_out))
    known, sizes = set(theirs), np.array([len(_shingles(key)) for key in theirs])
    leaks = np.array([key in known for key in ours], dtype=bool)
    if not sizes.any():
        return leaks
    counter = CountVectorizer(analyzer=_shingles, dtype=np.int64)
    by_shingle = counter.fit_transform(theirs).T.tocsr()
    for start in range(0, len(ours), BATCH):
        batch = ours[start : start + BATCH]
        own_sizes = np.array([len(_shingles(key)) for key in batch])
        shared = (counter.transform(batch) @ by_shingle).tocoo()
        is_near = shared.data >= NEAR_SHARE * np.minimum(own_sizes[shared.row], sizes[shared.col])
        leaks[start + shared.row[is_near]] = True
    return leaks


def _shingles(key: str) -> set[tuple[str, ...]]:
    words = key.split() if _WORD.search(key) else []
    return set(zip(*(words[step:] for step in range(SHINGLE_WORDS)), strict=False))


def drop_leaking(split: datasets.Dataset, name: str, held_out: Iterable[datasets.Dataset]) -> datasets.Dataset:
    """The rows of a split that repeat no held-out text; UserError for a class without any."""
    leaks = np.zeros(len(split), dtype=bool)
    for other in held_out:
        leaks |= find_leakage(split["text"], other["text"])
    clean = split.select(np.flatnonzero(~leaks))
    before, counts = (per_label(rows) or {f"the split {name}": len(rows)} for rows in (split, clean))
    for gone in (label for label, count in counts.items() if before[label] and not count):
        raise UserError(f"Every text of {gone!r} in {name} repeats a held-out text (--drop-leakage): give more of it.")
    if leaks.any():
        left = ", ".join(f"{count} of {label}" for label, count in counts.items())
        logger.warning(f"Note: {leaks.sum()} texts of {name} repeat held-out texts and were dropped; left are {left}.")
    return clean
