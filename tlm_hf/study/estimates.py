"""Estimates with 95% intervals: bootstrap over runs and test items, and t over independent runs.

Every difference is paired on test items. The bootstrap resamples the items and, independently, the runs of each side
(Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007). With few runs it can be too narrow or too wide,
so there is also a t-interval over runs (Welch's, where runs of the two sides are not pairs). A sign is claimed where
both exclude 0. All draws are seeded: the same records give the same numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product
from math import comb, prod
from typing import Any

import numpy as np
from scipy import stats

DRAWS = 10_000
"""With 2,000 the ends of an interval move by a tenth of a point from seed to seed, with these by a few hundredths."""
LEVEL = 0.95
MOST_COMMITTEES = 300
"""Committees of one size that are evaluated: all of ten members."""
Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Estimate:
    """A value, its bootstrap interval, the independent runs of each side, and the t-interval (None below two runs)."""

    value: float
    low: float
    high: float
    runs: tuple[int, ...]
    t_low: float | None = None
    t_high: float | None = None


@dataclass(frozen=True)
class Row:
    """One estimate of a finding, as a share of the test texts; `seeds` are the runs of the side that has fewer.

    Some have `measures` (a subset's overlap with the task), the names of `collapsed` runs that were left out, or the
    model of the latency rows that has their time (`timed_as`).
    """

    finding: str
    task: str
    model: str
    x: Any
    measure: str
    estimate: float
    low: float
    high: float
    seeds: int
    runs: list[int]
    t_low: float | None
    t_high: float | None
    measures: dict[str, float] | None = None
    collapsed: list[str] | None = None
    timed_as: str | None = None

    @property
    def percent(self) -> str:
        """`85.6 [84.1, 87.0]`, in percent of the test texts."""
        return f"{100 * self.estimate:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def points(self) -> str:
        """`+3.1 [+1.0, +5.2]`, in percentage points."""
        return f"{100 * self.estimate:+.1f} [{_bound(self.low)}, {_bound(self.high)}]"

    @property
    def t_points(self) -> str:
        """The t-interval over runs, in percentage points."""
        if self.t_low is None or self.t_high is None:
            return "one run"
        return f"[{_bound(self.t_low)}, {_bound(self.t_high)}]"

    @property
    def sides(self) -> str:
        """`10 and 7`: runs of each side."""
        return " and ".join(map(str, self.runs))


def _bound(share: float) -> str:
    """An end of an interval in percentage points; with more digits where it would round to 0."""
    value = 100 * share
    return f"{value:+.1f}" if abs(value) >= 0.05 else f"{value:+.3f}"


def make_row(finding: str, task: str, model: str, x: Any, measure: str, found: Estimate, **more: Any) -> Row:
    """A row with values rounded to a ten-thousandth of a point: further digits vary with a machine's order of sums."""
    t_low, t_high = (None if value is None else round(value, 6) for value in (found.t_low, found.t_high))
    low, high = round(found.low, 6), round(found.high, 6)
    runs = list(found.runs)
    return Row(
        finding, task, model, x, measure, round(found.value, 6), low, high, min(runs), runs, t_low, t_high, **more
    )


def _t_interval(values: np.ndarray) -> Interval:
    """t-interval of the mean of independent values; (None, None) for fewer than two."""
    if len(values) < 2:
        return None, None
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def _welch_interval(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """t-interval of the difference of two means with separate variances; (None, None) below two values."""
    if min(len(ours), len(theirs)) < 2:
        return None, None
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (ours, theirs)]
    value, variance = float(ours.mean() - theirs.mean()), sum(parts)
    if variance == 0:
        return value, value
    freedom = variance**2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, (ours, theirs), strict=True))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance))
    return value - half, value + half


@lru_cache(maxsize=4)  # drawing them is most of a report's time
def _item_counts(seed: int, count: int) -> np.ndarray:
    """How often each item is drawn, float (draws, count): whole numbers, whose sums are exact on every machine."""
    generator = np.random.default_rng(seed)
    items = np.empty((DRAWS, count))
    for draw in items:
        draw[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    items.setflags(write=False)
    return items


def _resample(rows: np.ndarray, items: np.ndarray, generator: np.random.Generator, single: bool) -> np.ndarray:
    """Bootstrap means of (runs, items), float (draws,): of as many runs as there are, or of a single one."""
    by_run = rows @ items.T / rows.shape[1]  # (runs, draws)
    if single:
        return by_run[generator.integers(len(rows), size=len(items)), np.arange(len(items))]
    weights = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=len(items)) / len(rows)
    return (weights * by_run.T).sum(axis=1)


def _draws(
    ours: np.ndarray, theirs: np.ndarray | None, seed: int = 0, single: bool = False, single_theirs: bool = False
) -> np.ndarray:
    """The bootstrap's values of a difference, float (draws,)."""
    items, generator = _item_counts(seed, ours.shape[1]), np.random.default_rng([seed, 1])
    values = _resample(ours, items, generator, single)
    return values if theirs is None else values - _resample(theirs, items, generator, single_theirs)


def _estimate(value: float, draws: np.ndarray, runs: tuple[int, ...], t_interval: Interval) -> Estimate:
    low, high = np.percentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(value, float(low), float(high), runs, *t_interval)


def accuracy(correct: np.ndarray, single: bool = False) -> Estimate:
    """Mean accuracy over runs; arguments as of `difference`."""
    return difference(correct, None, single=single)


def difference(
    ours: np.ndarray, theirs: np.ndarray | None, paired: bool = False, single: bool = False, single_theirs: bool = False
) -> Estimate:
    """Mean accuracy of ours less that of theirs, on the same test items.

    Args:
        ours: share of a run's answers that are right, float (runs, items).
        theirs: the same of the other side, which may have another number of runs; None for 0.
        paired: row k of both sides belongs together: the t-interval is that of the rows' differences, else Welch's.
        single: the interval is that of one run of ours, not of their mean, without a t-interval.
        single_theirs: the same for theirs.

    Raises:
        ValueError: sides with different items, or none.
    """
    if ours.ndim != 2 or not ours.size or (theirs is not None and theirs.shape[1:] != ours.shape[1:]):
        raise ValueError("Both sides need the same test items, and at least one run.")
    by_run = ours.mean(axis=1)
    other = np.zeros(1) if theirs is None else theirs.mean(axis=1)
    if single or single_theirs:
        t_interval: Interval = (None, None)
    elif paired or theirs is None:
        t_interval = _t_interval(by_run - other)
    else:
        t_interval = _welch_interval(by_run, other)
    runs = (len(ours),) if theirs is None else (len(ours), len(theirs))
    draws = _draws(ours, theirs, single=single, single_theirs=single_theirs)
    return _estimate(float(by_run.mean()) - float(other.mean()), draws, runs, t_interval)


def mean_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """Mean over tasks of paired differences (ours, theirs), float (runs, items of the task); all rows count alike."""
    # Each task has other texts, and so another seed.
    draws = np.mean([_draws(*pair, seed) for seed, pair in enumerate(pairs)], axis=0)
    by_run = [ours.mean(axis=1) - theirs.mean(axis=1) for ours, theirs in pairs]
    value = float(np.mean([values.mean() for values in by_run]))
    runs = sum(len(values) for values in by_run)
    return _estimate(value, draws, (runs, runs), _t_interval(np.concatenate(by_run)))


def slope(points: Sequence[float], accuracies: Sequence[np.ndarray]) -> Estimate:
    """Least-squares slope of the gap over points, such as log2 of the corpus size.

    The encoders from scratch are the same at all points, so they cancel: the accuracies are those of the pre-trained
    encoders, float (seeds, items) at each point, of the same seeds everywhere.
    """
    centred = np.asarray(points, dtype=float) - np.mean(points)
    weights = centred / (centred**2).sum()
    return difference(sum(weight * rows for weight, rows in zip(weights, accuracies, strict=True)), None)


def subsets(members: int, count: int) -> list[tuple[int, ...]]:
    """All committees of `count` of the members, or `MOST_COMMITTEES` random ones where there are more."""
    if comb(members, count) <= MOST_COMMITTEES:
        return list(combinations(range(members), count))
    generator = np.random.default_rng(0)
    return _distinct(lambda: sorted(generator.choice(members, count, replace=False).tolist()))


def one_of_each(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """All committees of one member of each kind, or `MOST_COMMITTEES` random ones; numbered through the kinds."""
    starts = np.cumsum([0, *counts[:-1]])
    if prod(counts) <= MOST_COMMITTEES:
        return list(product(*(range(start, start + count) for start, count in zip(starts, counts, strict=True))))
    generator = np.random.default_rng(0)
    return _distinct(lambda: (starts + generator.integers(counts)).tolist())


def _distinct(draw: Callable[[], list[int]]) -> list[tuple[int, ...]]:
    committees: set[tuple[int, ...]] = set()
    while len(committees) < MOST_COMMITTEES:
        committees.add(tuple(draw()))
    return sorted(committees)


def committees_right(member_logits: np.ndarray, labels: np.ndarray, committees: Sequence[Sequence[int]]) -> np.ndarray:
    """Which items each committee has right by the mean of its members' probabilities, float (committees, items).

    Logits are (items, members, classes), labels (items,).
    """
    exponentials = np.exp(member_logits - member_logits.max(axis=-1, keepdims=True))
    probabilities = (exponentials / exponentials.sum(axis=-1, keepdims=True)).transpose(1, 0, 2).copy()
    rows = [probabilities[list(each)].sum(axis=0).argmax(axis=-1) == labels for each in committees]
    return np.asarray(rows, dtype=float)  # a sum decides as a mean does


def committee_curve(curve: Sequence[np.ndarray], against: np.ndarray | None = None) -> list[Estimate]:
    """Accuracy, or its difference from other models (runs, items), of committees of 1, 2, ... members.

    The bootstrap draws one of the committees of a size (`committees_right`), test items, and runs of the others.
    """
    others = () if against is None else (len(against),)
    return [replace(difference(rows, against, single=True), runs=(len(curve), *others)) for rows in curve]


def first_not_worse(curve: Sequence[Estimate], margin: float) -> int | None:
    """Smallest number from which on all committees have the interval of their difference above `-margin`, or None."""
    worse = [place for place, found in enumerate(curve) if found.low <= -margin]
    smallest = max(worse, default=-1) + 2
    return smallest if smallest <= len(curve) else None
