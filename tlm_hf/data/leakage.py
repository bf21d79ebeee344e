"""Leakage: which training texts stand, word for word or nearly so, among held-out texts, and the other way round.

Definitions, all exact (nothing is sampled, and no hash decides):

- The *words* of a text are its runs of letters and digits (`str.isalnum`) after Unicode NFKC and case folding.
- The *normalised* text is its words with one space between them. A text without any word (a row of dashes, say) is
  taken as it is, white space aside.
- Two texts are *exact duplicates* when their normalised texts are equal.
- A *shingle* is five successive words. The *share* of two texts is the number of different shingles that stand in both,
  divided by the number of different shingles of the one that has fewer (containment, so that a sentence inside a
  paragraph counts). They are *near duplicates* when they are no exact ones and the share is at least 0.8. A text of
  fewer than five words has no shingle and compares whole: it can be an exact duplicate only.

Five-word shingles and containment are the habit of the field (Broder 1997, "On the resemblance and containment of
documents"; Lee et al. 2022, arXiv 2107.06499, for training text).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np

from .subsets import ID

SHINGLE_WORDS = 5
NEAR_SHARE = 0.8
BATCH_CHARACTERS = 4_000_000
"""Text of the larger side that is looked at in one go."""
MATCHES_AT_ONCE = 4_000_000
"""Pairs (shingle of the larger side, text of the smaller side that has it) that are counted in one go."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Side:
    """What one of the two sides has in the other.

    Attributes:
        share: (rows,) float64, the largest share with a text of the other side; 1 for an exact duplicate, 0 where no
            text of the other side is a duplicate.
        exact: (rows,) bool, whether the other side has an exact duplicate.
        partner: (rows,) int64, the row of the other side that is meant: an exact duplicate before a near one, then the
            largest share, then the first; -1 where there is none.
    """

    share: np.ndarray
    exact: np.ndarray
    partner: np.ndarray

    @property
    def leaks(self) -> np.ndarray:
        """(rows,) bool: there is an exact or a near duplicate on the other side."""
        return self.partner >= 0

    def counts(self) -> dict[str, Any]:
        """Rows, those with an exact duplicate, those with a near one alone, and the share of both together."""
        rows, exact, leaks = len(self.share), int(self.exact.sum()), int(self.leaks.sum())
        share = round(leaks / rows, 6) if rows else 0.0
        return {"rows": rows, "exact": exact, "near": leaks - exact, "share": share}


@dataclass(frozen=True)
class Leakage:
    """Duplicates between training texts and held-out texts: both sides, and how many pairs there are of each kind."""

    training: Side
    held_out: Side
    exact_pairs: int
    near_pairs: int

    def report(self, training_ids: Sequence[str], held_out_ids: Sequence[str], *, examples: int = 10) -> dict[str, Any]:
        """The counts as JSON values, with the ids of some pairs and never a text.

        Args:
            training_ids: one id for each training text.
            held_out_ids: one id for each held-out text.
            examples: at most so many pairs, spread over the held-out texts that leak.

        Returns:
            `training` and `held_out` (see `Side.counts`), `pairs` of each kind, `examples` (each with both ids, the
            share and whether it is exact), and the definition's `shingle_words` and `near_share`.
        """
        rows = np.flatnonzero(self.held_out.leaks)
        spread = rows[np.unique(np.linspace(0, len(rows) - 1, min(examples, len(rows))).round().astype(np.int64))]
        return {
            "training": self.training.counts(),
            "held_out": self.held_out.counts(),
            "pairs": {"exact": self.exact_pairs, "near": self.near_pairs},
            "examples": [
                {
                    "training": str(training_ids[int(self.held_out.partner[row])]),
                    "held_out": str(held_out_ids[int(row)]),
                    "share": round(float(self.held_out.share[row]), 4),
                    "exact": bool(self.held_out.exact[row]),
                }
                for row in spread
            ],
            "shingle_words": SHINGLE_WORDS,
            "near_share": NEAR_SHARE,
        }


def split_words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits after NFKC and case folding."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalise(text: str) -> str:
    """The text that exact duplicates share: its words with one space between them, see the module."""
    return _joined(split_words(text), text)


def _joined(words: list[str], text: str) -> str:
    """`normalise` of a text whose words are known already."""
    return " ".join(words) or " ".join(text.split())


def find_leakage(training: Sequence[str], held_out: Sequence[str]) -> Leakage:
    """Find every exact and near duplicate between two lists of texts.

    An index is made of the side with fewer texts; the other one passes by in batches, so memory grows with the smaller
    side and with the number of rows, not with the text of the larger one. Every candidate's share is counted exactly.

    Args:
        training: texts that may be dropped (a list, or a column of a `datasets.Dataset`).
        held_out: texts that are kept, such as a test split.

    Returns:
        What was found on both sides.
    """
    if len(training) < len(held_out):
        found = find_leakage(held_out, training)
        return replace(found, training=found.held_out, held_out=found.training)
    index = _Index(held_out)
    here, there = _Best(len(training)), _Best(len(index.keys))
    pairs = {True: 0, False: 0}
    for start, texts in _batches(training):
        words = [split_words(text) for text in texts]
        keys = [_joined(found, text) for found, text in zip(words, texts, strict=True)]
        for exact, (rows, groups, shares) in index.duplicates(keys, words):
            pairs[exact] += int(index.sizes[groups].sum())
            here.update(rows + start, shares + exact, index.first[groups])
            there.update(groups, shares + exact, rows + start)
    return Leakage(here.side(), there.side(index.group), exact_pairs=pairs[True], near_pairs=pairs[False])


def check_splits(training: datasets.Dataset, held_out: datasets.Dataset) -> tuple[Leakage, dict[str, Any]]:
    """`find_leakage` for two splits with the columns `text` and `id`, and its report with their ids."""
    found = find_leakage(training["text"], held_out["text"])
    return found, found.report(training[ID], held_out[ID])


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Successive texts of about BATCH_CHARACTERS together, each batch with the row of its first text."""
    start, batch, size = 0, [], 0
    for offset in range(0, len(texts), 1000):
        for row, text in enumerate(texts[offset : offset + 1000], start=offset):
            batch.append(text)
            size += len(text)
            if size >= BATCH_CHARACTERS:
                yield start, batch
                start, batch, size = row + 1, [], 0
    if batch:
        yield start, batch


class _Best:
    """For each row of one side the best partner so far; scores are the share, plus 1 for an exact duplicate."""

    def __init__(self, rows: int) -> None:
        self.score = np.zeros(rows)
        self.partner = np.full(rows, -1, dtype=np.int64)

    def update(self, rows: np.ndarray, scores: np.ndarray, partners: np.ndarray) -> None:
        """Take in candidates; among equals the lowest partner stays, in whatever order they come."""
        order = np.lexsort((partners, -scores, rows))
        rows, scores, partners = rows[order], scores[order], partners[order]
        first = np.r_[True, rows[1:] != rows[:-1]][: len(rows)]
        rows, scores, partners = rows[first], scores[first], partners[first]
        there = self.score[rows]
        better = (scores > there) | ((scores == there) & (partners < self.partner[rows]))
        self.score[rows[better]] = scores[better]
        self.partner[rows[better]] = partners[better]

    def side(self, take: np.ndarray | slice = slice(None)) -> Side:
        """The result; `take` turns distinct texts into rows."""
        score = self.score[take]
        return Side(share=np.minimum(score, 1.0), exact=score == 2.0, partner=self.partner[take])


class _Index:
    """The distinct texts of the smaller side by their normalised text and by their shingles.

    Word and shingle numbers are exact: words are numbered by a dictionary, a run of k words is numbered among those of
    the index by the pair (number of its first k-1 words, number of its last word), as one integer (both are below the
    number of words of the index, so the integer stays below 2^63). What the index does not know has no number, and a
    text of the other side that holds none of its shingles is never looked at again.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.keys: dict[str, int] = {}
        self.vocabulary: dict[str, int] = {}
        self.group = np.empty(len(texts), dtype=np.int64)
        words: list[list[int]] = []
        for start, batch in _batches(texts):
            for row, text in enumerate(batch, start=start):
                found = split_words(text)
                key = _joined(found, text)
                self.group[row] = self.keys.setdefault(key, len(self.keys))
                if len(self.keys) > len(words):
                    words.append([self.vocabulary.setdefault(word, len(self.vocabulary)) for word in found])
        _, self.first, self.sizes = np.unique(self.group, return_index=True, return_counts=True)
        self.levels: list[np.ndarray] = []
        groups, shingles = self._shingles(words, learn=True)
        pairs = np.unique(shingles * max(1, len(words)) + groups)  # by shingle, then by text
        self.posting = pairs % max(1, len(words))
        self.shingles = np.bincount(self.posting, minlength=len(words))
        counts = np.bincount(pairs // max(1, len(words)), minlength=1)
        self.start = np.r_[0, np.cumsum(counts)]

    def duplicates(
        self, keys: list[str], words: list[list[str]]
    ) -> Iterator[tuple[bool, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
        """Duplicates of a batch: whether exact, and rows of the batch, distinct texts of the index, and shares."""
        same = np.array([self.keys.get(key, -1) for key in keys], dtype=np.int64)
        rows = np.flatnonzero(same >= 0)
        yield True, (rows, same[rows], np.ones(len(rows)))
        number = self.vocabulary.get
        texts, shingles = self._shingles([[number(word, -1) for word in found] for found in words], learn=False)
        held = np.unique(texts * len(self.start) + shingles)  # every shingle of a text once, by text
        texts, shingles = held // len(self.start), held % len(self.start)
        lengths = np.diff(self.start)[shingles]
        known = np.bincount(texts, minlength=len(words))
        own = np.full(len(words), -1, dtype=np.int64)
        for part in _parts(texts, lengths):
            rows, groups, both = self._shared(texts[part], shingles[part], lengths[part])
            # A text has at least the shingles that the index knows of it, so this leaves no near duplicate out.
            likely = both / np.minimum(known[rows], self.shingles[groups]) >= NEAR_SHARE
            likely &= same[rows] != groups
            rows, groups, both = rows[likely], groups[likely], both[likely]
            for row in np.unique(rows[own[rows] < 0]):
                own[row] = _count_shingles(words[row])
            shares = both / np.minimum(own[rows], self.shingles[groups])
            near = shares >= NEAR_SHARE
            yield False, (rows[near], groups[near], shares[near])

    def _shared(
        self, texts: np.ndarray, shingles: np.ndarray, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of texts with a common shingle, and how many different ones they have in common."""
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        groups = self.posting[np.repeat(self.start[shingles], lengths) + within]
        pairs, both = np.unique(np.repeat(texts, lengths) * len(self.keys) + groups, return_counts=True)
        return pairs // len(self.keys), pairs % len(self.keys), both

    def _shingles(self, words: list[list[int]], *, learn: bool) -> tuple[np.ndarray, np.ndarray]:
        """Text and number of every shingle (with repeats) that the index knows; `learn` numbers them first."""
        sizes = np.array([len(found) for found in words], dtype=np.int64)
        flat = np.fromiter((number for found in words for number in found), dtype=np.int64, count=int(sizes.sum()))
        places = np.maximum(sizes - SHINGLE_WORDS + 1, 0)
        texts = np.repeat(np.arange(len(words)), places)
        position = np.arange(places.sum()) + np.repeat(np.cumsum(sizes) - sizes - (np.cumsum(places) - places), places)
        unknown = np.r_[0, np.cumsum(flat < 0)]
        whole = unknown[position + SHINGLE_WORDS] == unknown[position]
        texts, position = texts[whole], position[whole]
        gram = flat[position]
        for step in range(1, SHINGLE_WORDS):
            code = gram * max(1, len(self.vocabulary)) + flat[position + step]
            if learn:
                level, gram = np.unique(code, return_inverse=True)
                self.levels.append(level)
                continue
            level = self.levels[step - 1]
            if not len(level):
                return texts[:0], gram[:0]
            gram = np.minimum(np.searchsorted(level, code), len(level) - 1)
            there = level[gram] == code
            texts, position, gram = texts[there], position[there], gram[there]
        return texts, gram


def _count_shingles(words: list[str]) -> int:
    """Number of different shingles."""
    return len(set(zip(*(words[step:] for step in range(SHINGLE_WORDS)), strict=False)))


def _parts(texts: np.ndarray, lengths: np.ndarray) -> Iterator[slice]:
    """Runs of whole texts with at most MATCHES_AT_ONCE matches together (or one text that has more)."""
    ends = np.flatnonzero(np.r_[texts[1:] != texts[:-1], True][: len(texts)]) + 1
    total = np.r_[0, np.cumsum(lengths)]
    start = 0
    while start < len(texts):
        last = np.searchsorted(total[ends], total[start] + MATCHES_AT_ONCE, side="right") - 1
        end = int(ends[max(int(last), int(np.searchsorted(ends, start, side="right")))])
        yield slice(start, end)
        start = end
