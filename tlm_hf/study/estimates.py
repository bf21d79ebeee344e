"""Estimates with 95% intervals: bootstrap over runs and test items, and t over independent runs.

Every difference is paired on test items. The bootstrap resamples the items and, independently, the runs of each side
(Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007). With few runs it can be too narrow or too wide,
so there is also a t-interval over runs (Welch's, where runs of the two sides are not pairs). A sign is claimed where
both exclude 0. All draws are seeded: the same records give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

import numpy as np
from scipy import stats

DRAWS = 10_000
"""With 2,000 the ends of an interval move by a tenth of a point from seed to seed, with these by a few hundredths."""
LEVEL = 0.95
MOST_COMMITTEES = 300
"""Committees of one size that are evaluated: all of ten members."""
Committee = tuple[int, ...]
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


def _interval(*sides: np.ndarray) -> Interval:
    """t-interval of a mean over runs, or Welch's of the difference of two means; (None, None) below two runs a side."""
    if min(map(len, sides)) < 2:
        return None, None
    variances = [float(np.var(side, ddof=1)) / len(side) for side in sides]
    value, total = float(sides[0].mean() - sum(side.mean() for side in sides[1:])), sum(variances)
    if total == 0:
        return value, value
    freedom = total**2 / sum(part**2 / (len(side) - 1) for part, side in zip(variances, sides, strict=True))
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(total))
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


@lru_cache(maxsize=16)  # a report compares the same runs with many others
def _means(rows: bytes, runs: int, seed: int) -> np.ndarray:
    """Bootstrap mean of each run, float (runs, draws), of the bytes of a float array (runs, items)."""
    array = np.frombuffer(rows).reshape(runs, -1)
    means: np.ndarray = array @ _item_counts(seed, array.shape[1]).T / array.shape[1]
    return means


def _resample(rows: np.ndarray, seed: int, generator: np.random.Generator, single: bool) -> np.ndarray:
    """Bootstrap means of (runs, items), float (draws,): of as many runs as there are, or of a single one."""
    means = _means(np.asarray(rows, dtype=float).tobytes(), len(rows), seed)
    if single:
        return means[generator.integers(len(rows), size=DRAWS), np.arange(DRAWS)]
    weights = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=DRAWS) / len(rows)
    return (weights * means.T).sum(axis=1)


def _draws(
    ours: np.ndarray, theirs: np.ndarray | None, seed: int = 0, single: bool = False, single_theirs: bool = False
) -> np.ndarray:
    """The bootstrap's values of a difference, float (draws,)."""
    generator = np.random.default_rng([seed, 1])
    values = _resample(ours, seed, generator, single)
    return values if theirs is None else values - _resample(theirs, seed, generator, single_theirs)


def _estimate(value: float, draws: np.ndarray, runs: tuple[int, ...], t_interval: Interval) -> Estimate:
    low, high = np.percentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(value, float(low), float(high), runs, *t_interval)


def estimate(
    ours: np.ndarray,
    theirs: np.ndarray | None = None,
    *,
    paired: bool = False,
    single: bool = False,
    single_theirs: bool = False,
) -> Estimate:
    """Mean accuracy of ours, or that less the mean accuracy of theirs on the same test items.

    Args:
        ours: what the runs have right, float (runs, items).
        theirs: likewise of the other side.
        paired: row k of both sides belongs together, for the t-interval.
        single: rows are alternatives, such as committees of the same members: the value is that of one of them, the
            bootstrap draws one, and there is no t-interval.
        single_theirs: the same for the other side.

    Raises:
        ValueError: sides of other test items.
    """
    if theirs is not None and theirs.shape[1] != ours.shape[1]:
        raise ValueError("Both sides must be on the same test items.")
    draws, by_run = _draws(ours, theirs, 0, single, single_theirs), ours.mean(axis=1)
    other = np.zeros(1) if theirs is None else theirs.mean(axis=1)
    if single or single_theirs:
        t_interval: Interval = (None, None)
    elif paired or theirs is None:
        t_interval = _interval(by_run - other)
    else:
        t_interval = _interval(by_run, other)
    runs = (len(ours),) if theirs is None else (len(ours), len(theirs))
    return _estimate(float(by_run.mean()) - float(other.mean()), draws, runs, t_interval)


def mean_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """Mean over tasks of paired differences (ours, theirs), float (runs, items of the task); all rows count alike."""
    # Each task has other texts, and so another seed.
    draws = np.mean([_draws(*pair, seed) for seed, pair in enumerate(pairs)], axis=0)
    by_run = [ours.mean(axis=1) - theirs.mean(axis=1) for ours, theirs in pairs]
    value = float(np.mean([values.mean() for values in by_run]))
    runs = sum(len(values) for values in by_run)
    return _estimate(value, draws, (runs, runs), _interval(np.concatenate(by_run)))


def slope(points: Sequence[float], accuracies: Sequence[np.ndarray]) -> Estimate:
    """Least-squares slope of the gap over points, such as log2 of the corpus size.

    The encoders from scratch are the same at all points, so they cancel: the accuracies are those of the pre-trained
    encoders, float (seeds, items) at each point, of the same seeds everywhere.
    """
    centred = np.asarray(points, dtype=float) - np.mean(points)
    weights = centred / (centred**2).sum()
    return estimate(np.tensordot(weights, np.stack(list(accuracies)), 1))


def subsets(members: int, count: int) -> list[Committee]:
    """All committees of `count` of the members, or `MOST_COMMITTEES` random ones."""
    return _thin(list(combinations(range(members), count)))


def one_of_each(counts: Sequence[int]) -> list[Committee]:
    """All committees of one member of each kind, or `MOST_COMMITTEES` random ones; numbered through the kinds."""
    ends = np.cumsum(counts)
    return _thin(list(product(*(range(end - count, end) for end, count in zip(ends, counts, strict=True)))))


def _thin(committees: list[Committee]) -> list[Committee]:
    if len(committees) <= MOST_COMMITTEES:
        return committees
    places = np.random.default_rng(0).choice(len(committees), MOST_COMMITTEES, replace=False)
    return [committees[place] for place in sorted(places)]


def committees_right(member_logits: np.ndarray, labels: np.ndarray, committees: Sequence[Sequence[int]]) -> np.ndarray:
    """Which items each committee has right by the mean of its members' probabilities, float (committees, items).

    Logits are (items, members, classes), labels (items,).
    """
    exponentials = np.exp(member_logits - member_logits.max(axis=-1, keepdims=True))
    probabilities = (exponentials / exponentials.sum(axis=-1, keepdims=True)).transpose(1, 0, 2).copy()
    rows = [probabilities[list(each)].sum(axis=0).argmax(axis=-1) == labels for each in committees]
    return np.asarray(rows, dtype=float)  # a sum decides as a mean does


def first_not_worse(lows: Sequence[float], margin: float) -> int | None:
    """Smallest number from which on all committees have the low end of their difference above `-margin`, or None."""
    worse = [place for place, low in enumerate(lows) if low <= -margin]
    smallest = max(worse, default=-1) + 2
    return smallest if smallest <= len(lows) else None
