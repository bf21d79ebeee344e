"""Estimates with 95% intervals: bootstrap over seeds and test items, and t over independent runs.

Every interval of a difference is paired: both sides are resampled on the same test items. The bootstrap resamples the
test items and, independently, the runs of each side (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1,
2007). With few runs it is too narrow where they differ much, and too wide where they hardly do, so a t-interval over
runs (Welch's, where the two sides have runs of their own) stands beside it wherever there are at least two, and a sign
is claimed where both exclude 0. All draws are seeded: the same records give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product
from math import comb, prod

import numpy as np
from scipy.stats import t as student

DRAWS = 10_000
"""With 2,000 the ends of an interval move by a tenth of a point from seed to seed, with these by a few hundredths."""
LEVEL = 0.95
MOST = 300
"""Committees of a size that are looked at: all of ten members, whatever the size."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval by the bootstrap, and by t over runs where both sides have at least two.

    Args:
        value, low, high: the estimate and its bootstrap interval.
        runs: independent runs behind each side (pre-trained encoders, encoders from scratch, members).
        t_low, t_high: t-interval over the runs; None where a side has a single one.
    """

    value: float
    low: float
    high: float
    runs: tuple[int, ...]
    t_low: float | None = None
    t_high: float | None = None

    @property
    def seeds(self) -> int:
        """Runs of the side that has fewer."""
        return min(self.runs)


def t_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95% t-interval of the mean of independent values; (None, None) for fewer than two."""
    if len(values) < 2:
        return None, None
    half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def welch_interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float | None, float | None]:
    """95% t-interval of the difference of two means with variances of their own; (None, None) below two values."""
    if min(len(ours), len(theirs)) < 2:
        return None, None
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (ours, theirs)]
    value, variance = float(ours.mean() - theirs.mean()), sum(parts)
    if variance == 0:
        return value, value
    freedom = variance**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (ours, theirs), strict=True))
    half = float(student.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance))
    return value - half, value + half


@lru_cache(maxsize=4)  # drawing them is most of a report's time
def _item_counts(seed: int, count: int) -> np.ndarray:
    """How often each item is drawn, float (draws, count): whole numbers, whose sums are the same on every machine."""
    generator = np.random.default_rng(seed)
    items = np.empty((DRAWS, count))
    for draw in items:
        draw[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    items.setflags(write=False)
    return items


def _drawn(rows: np.ndarray, items: np.ndarray, generator: np.random.Generator, single: bool) -> np.ndarray:
    """Bootstrap means of (runs, items), float (draws,): of as many runs as there are, or of a single one."""
    by_run = rows @ items.T / rows.shape[1]  # (runs, draws)
    draws = np.arange(len(items))
    if single:
        return by_run[generator.integers(len(rows), size=len(items)), draws]
    weights = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=len(items)) / len(rows)
    return (weights * by_run.T).sum(axis=1)


def accuracy(correct: np.ndarray, seed: int = 0, single: bool = False) -> Estimate:
    """Mean accuracy over runs.

    Args:
        correct: share of a run's answers that are right, float (runs, items).
        seed: of the draws.
        single: the interval is that of one of the runs, not of their mean.
    """
    return difference(correct, None, seed, single=single)


def difference(
    ours: np.ndarray, theirs: np.ndarray | None, seed: int = 0, paired: bool = False, single: bool = False,
    single_theirs: bool = False,
) -> Estimate:  # fmt: skip
    """Mean accuracy of ours less that of theirs, on the same test items.

    Args:
        ours: share of a run's answers that are right, float (runs, items).
        theirs: likewise, its own number of runs; None for 0.
        seed: of the draws.
        paired: row k of both sides belongs together: the t-interval is that of the rows' differences, else Welch's.
        single: the interval is that of one run of ours (a committee that one would build), not of their mean: no
            t-interval then.
        single_theirs: likewise theirs.

    Raises:
        ValueError: sides with other numbers of items, or none; paired sides with other numbers of rows.
    """
    if ours.ndim != 2 or not ours.size or (theirs is not None and theirs.shape[1:] != ours.shape[1:]):
        raise ValueError("Both sides need the same test items, and at least one run.")
    if paired and theirs is not None and len(ours) != len(theirs):
        raise ValueError("Paired sides need as many runs each.")
    drawn = _draws(ours, theirs, seed, single, single_theirs)
    by_run = ours.mean(axis=1)
    value, runs = float(by_run.mean()), [len(ours)]
    bounds: tuple[float | None, float | None] = (None, None)
    if theirs is None:
        bounds = t_interval(by_run.tolist())
    else:
        other = theirs.mean(axis=1)
        value, runs = value - float(other.mean()), [len(ours), len(theirs)]
        bounds = t_interval((by_run - other).tolist()) if paired else welch_interval(by_run, other)
    if single or single_theirs:
        bounds = (None, None)
    return _estimate(value, drawn, tuple(runs), bounds)


def _draws(
    ours: np.ndarray, theirs: np.ndarray | None, seed: int, single: bool = False, single_theirs: bool = False
) -> np.ndarray:
    """The bootstrap's values of a difference, float (draws,)."""
    items, generator = _item_counts(seed, ours.shape[1]), np.random.default_rng([seed, 1])
    drawn = _drawn(ours, items, generator, single)
    return drawn if theirs is None else drawn - _drawn(theirs, items, generator, single_theirs)


def _estimate(
    value: float, drawn: np.ndarray, runs: tuple[int, ...], bounds: tuple[float | None, float | None]
) -> Estimate:
    low, high = np.percentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(value, float(low), float(high), runs, *bounds)


def mean_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0) -> Estimate:
    """Mean over tasks of paired differences: tasks have items of their own, and all rows count alike in the t-interval.

    Args:
        pairs: (ours, theirs) of each task, float (runs, items of the task) each, row k of both belonging together.
        seed: of the first task's draws; the next ones count on, since their texts are others.
    """
    drawn = np.mean([_draws(*pair, seed + place) for place, pair in enumerate(pairs)], axis=0)
    by_run = [ours.mean(axis=1) - theirs.mean(axis=1) for ours, theirs in pairs]
    value = float(np.mean([values.mean() for values in by_run]))
    runs = sum(len(values) for values in by_run)
    return _estimate(value, drawn, (runs, runs), t_interval(np.concatenate(by_run).tolist()))


def slope(points: Sequence[float], accuracies: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """Least-squares slope of the gap over points, such as log2 of the corpus size.

    The encoders from scratch are the same at all points, so that they cancel.

    Args:
        points: x of each.
        accuracies: of the pre-trained encoders at each point, float (seeds, items), of the same seeds at all points.
        seed: of the draws: one draw of items, and one of seeds, for all points.

    Raises:
        ValueError: fewer than two points.
    """
    if len(points) < 2:
        raise ValueError("A slope needs at least two points.")
    centred = np.asarray(points, dtype=float) - np.mean(points)
    weights = centred / (centred**2).sum()
    lever = sum(weight * correct for weight, correct in zip(weights, accuracies, strict=True))
    return difference(np.asarray(lever), None, seed)


def subsets(members: int, count: int) -> list[tuple[int, ...]]:
    """All committees of `count` of the members, or `MOST` random ones where there are more."""
    if comb(members, count) <= MOST:
        return list(combinations(range(members), count))
    generator = np.random.default_rng(0)
    found: set[tuple[int, ...]] = set()
    while len(found) < MOST:
        found.add(tuple(sorted(generator.choice(members, count, replace=False).tolist())))
    return sorted(found)


def one_of_each(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """All committees of one member of each kind, or `MOST` random ones; members are numbered through the kinds."""
    starts = np.cumsum([0, *counts[:-1]])
    if prod(counts) <= MOST:
        return list(product(*(range(start, start + count) for start, count in zip(starts, counts, strict=True))))
    generator = np.random.default_rng(0)
    found: set[tuple[int, ...]] = set()
    while len(found) < MOST:
        found.add(tuple((starts + generator.integers(counts)).tolist()))
    return sorted(found)


def committees_right(member_logits: np.ndarray, labels: np.ndarray, committees: Sequence[Sequence[int]]) -> np.ndarray:
    """Which items each committee has right by the mean of its members' probabilities, float (committees, items).

    Args:
        member_logits: float (items, members, classes).
        labels: int (items,).
        committees: members of each.
    """
    chosen = np.exp(member_logits - member_logits.max(axis=-1, keepdims=True))
    probabilities = (chosen / chosen.sum(axis=-1, keepdims=True)).transpose(1, 0, 2).copy()
    rows = [probabilities[list(each)].sum(axis=0).argmax(axis=-1) == labels for each in committees]
    return np.asarray(rows, dtype=float)  # of sums, which differ from means by a factor that decides nothing


def committee_curve(curve: Sequence[np.ndarray], against: np.ndarray | None = None, seed: int = 0) -> list[Estimate]:
    """Accuracy, or its difference from other models, of committees of 1, 2, ... members.

    The value is the mean over the committees of a size; the bootstrap draws one of them, test items, and runs of the
    other models. (All members together are one committee: there only items and the others' runs move.)

    Args:
        curve: what `committees_right` gives for each number of members.
        against: right or wrong of the models compared with, (runs, items); None for 0.
        seed: of the draws.
    """
    others = () if against is None else (len(against),)
    return [replace(difference(rows, against, seed, single=True), runs=(len(curve), *others)) for rows in curve]


def first_not_worse(curve: Sequence[Estimate], margin: float) -> int | None:
    """Smallest number from which on all committees have the interval of their difference above `-margin`, or None."""
    smallest = None
    for place in reversed(range(len(curve))):
        if curve[place].low <= -margin:
            break
        smallest = place + 1
    return smallest
