"""Estimates with 95% intervals: bootstrap over runs and test items, and t over independent runs.

The bootstrap resamples the items, the same for both sides, and independently the runs of each side (Owen, The
pigeonhole bootstrap, Annals of Applied Statistics 1, 2007). A sign is claimed where both intervals exclude 0.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import softmax

DRAWS = 10_000  # with 2,000 the ends of an interval move by a tenth of a point from seed to seed
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value, its bootstrap interval, the independent runs of each side, and the t-interval (None below two runs)."""

    value: float
    low: float
    high: float
    runs: tuple[int, ...]
    t_low: float | None = None
    t_high: float | None = None


@dataclass(frozen=True, eq=False)
class Answers:
    """What the runs of one side have right, float (runs, items); sides on the same items have the same `seed`.

    With `members` rows are alternatives, such as all pairs of that many members: the bootstrap draws one.
    """

    right: np.ndarray
    members: int | None = None
    seed: int = 0

    @property
    def runs(self) -> int:
        """How many independent runs are behind it."""
        return len(self.right) if self.members is None else self.members

    @cached_property
    def by_run(self) -> np.ndarray:
        """Accuracy of each run, float (runs,)."""
        return self.right.mean(axis=1)

    @property
    def sample(self) -> np.ndarray:
        """Accuracy of the independent runs, float (runs,); of alternatives their mean alone, float (1,)."""
        return self.by_run if self.members is None else self.by_run.mean(keepdims=True)

    @cached_property
    def _means(self) -> np.ndarray:
        """Bootstrap mean of each run, float (runs, draws)."""
        items = self.right.shape[1]
        return np.asarray(self.right.astype(float) @ _item_counts(self.seed, items).T / items)

    def draws(self, generator: np.random.Generator) -> np.ndarray:
        """Bootstrap means, float (draws,): of as many runs as there are, or of a single alternative."""
        count = len(self.right)
        if self.members is not None:
            return np.asarray(self._means[generator.integers(count, size=DRAWS), np.arange(DRAWS)])
        weights = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
        return np.asarray((weights * self._means.T).sum(axis=1))


@lru_cache(maxsize=4)  # drawing them is most of a report's time
def _item_counts(seed: int, count: int) -> np.ndarray:
    """How often each item is drawn, float (draws, count): whole numbers, whose sums are exact on every machine."""
    generator = np.random.default_rng(seed)
    counts = [np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(DRAWS)]
    return np.array(counts, dtype=float)


def _draws(ours: Answers, theirs: Answers | None = None) -> np.ndarray:
    """Bootstrap means, or differences of means, float (draws,); equal generators draw equal seeds for every task."""
    generator = np.random.default_rng([0, 1])
    return ours.draws(generator) - (0 if theirs is None else theirs.draws(generator))


def _estimate(sides: Sequence[Answers], draws: np.ndarray, *samples: np.ndarray) -> Estimate:
    """The mean of a sample over runs, or the difference of two (Welch); below two runs there is no t-interval."""
    value = float(samples[0].mean() - sum(other.mean() for other in samples[1:]))
    low, high = np.percentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()
    runs = tuple(side.runs for side in sides)
    if min(map(len, samples)) < 2:
        return Estimate(value, low, high, runs)
    with warnings.catch_warnings(action="ignore"):  # of runs that are all alike
        test = stats.ttest_1samp(*samples, 0) if len(samples) == 1 else stats.ttest_ind(*samples, equal_var=False)
        interval = test.confidence_interval(LEVEL)
    return Estimate(value, low, high, runs, float(interval.low), float(interval.high))


def accuracy(ours: Answers) -> Estimate:
    """Mean accuracy."""
    return _estimate([ours], _draws(ours), ours.sample)


def difference(ours: Answers, theirs: Answers, *, paired: bool = False) -> Estimate:
    """Mean accuracy of ours less that of theirs; with `paired`, row k of both belongs together for the t-interval.

    A side without runs to vary (alternatives, or one run) is held fixed at its mean: t is over the runs of the other.
    """
    if theirs.right.shape[1] != ours.right.shape[1]:
        raise ValueError("Both sides must be on the same test items.")
    samples = [ours.sample, theirs.sample]
    if paired or min(map(len, samples)) == 1:
        samples = [samples[0] - samples[1]]
    return _estimate([ours, theirs], _draws(ours, theirs), *samples)


def mean_difference(pairs: Sequence[Sequence[Answers]]) -> Estimate:
    """Mean over tasks of paired differences (ours, theirs); encoders serve all tasks, so only seeds are independent."""
    by_seed = np.mean([ours.by_run - theirs.by_run for ours, theirs in pairs], axis=0)
    return _estimate(pairs[0], np.mean([_draws(*pair) for pair in pairs], axis=0), by_seed)


def slope(points: npt.ArrayLike, accuracies: Sequence[np.ndarray]) -> Estimate:
    """Least-squares slope of the gap over points, from pre-trained runs (seeds, items); those from scratch cancel."""
    centred = np.asarray(points, dtype=float)
    centred -= centred.mean()
    weights = centred / (centred**2).sum()
    return accuracy(Answers(np.tensordot(weights, np.stack(list(accuracies)), 1)))


def committees_right(member_logits: np.ndarray, labels: np.ndarray, committees: Sequence[Sequence[int]]) -> np.ndarray:
    """Which items each committee has right, float (committees, items), by logits (items, members, classes)."""
    probabilities = softmax(member_logits, axis=-1).transpose(1, 0, 2).copy()
    rows = [probabilities[list(each)].sum(axis=0).argmax(axis=-1) == labels for each in committees]
    return np.asarray(rows, dtype=float)  # a sum decides as a mean does
