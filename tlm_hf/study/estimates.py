"""Estimates with 95% intervals: bootstrap over seeds and test items, and t over pre-training seeds.

Every interval of a difference is paired: both sides are resampled on the same test items. The bootstrap resamples the
test items and, independently, the pre-training seeds of each side (Owen, The pigeonhole bootstrap, Annals of Applied
Statistics 1, 2007). With few seeds it is too narrow where seeds differ much, and too wide where they hardly do, so a
t-interval over seeds stands beside it wherever there are at least two, and a sign is claimed where both exclude 0.
All draws are seeded: the same records give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import t as student

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval by the bootstrap, and by t over seeds where there are at least two.

    Args:
        value, low, high: the estimate and its bootstrap interval.
        seeds: pre-training seeds behind it (those of the side that has fewer).
        t_low, t_high: t-interval over the seeds; None for a single seed.
    """

    value: float
    low: float
    high: float
    seeds: int
    t_low: float | None = None
    t_high: float | None = None


def t_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95% t-interval of the mean of independent values; (None, None) for fewer than two."""
    if len(values) < 2:
        return None, None
    half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def _weights(generator: np.random.Generator, draws: int, count: int) -> np.ndarray:
    """How often each of `count` is drawn, as shares of sum 1: (draws, count)."""
    return generator.multinomial(count, np.full(count, 1 / count), size=draws) / count


@lru_cache(maxsize=4)  # 2000 x 2000 numbers of 8 bytes each are drawn a hundred times for a report otherwise
def _item_weights(seed: int, count: int) -> tuple[np.ndarray, Any]:
    """The first draw of a seed, `_weights` of the items, and the generator's state behind it."""
    generator = np.random.default_rng(seed)
    items = _weights(generator, DRAWS, count)
    items.setflags(write=False)
    return items, generator.bit_generator.state


def accuracy(correct: np.ndarray, seed: int = 0) -> Estimate:
    """Mean accuracy over pre-training seeds.

    Args:
        correct: share of a seed's runs that are right, float (seeds, items).
        seed: of the draws.
    """
    return difference(correct, None, seed)


def difference(ours: np.ndarray, theirs: np.ndarray | None, seed: int = 0, paired_seeds: bool = True) -> Estimate:
    """Mean accuracy of ours less that of theirs, on the same test items.

    Args:
        ours: share of a seed's runs that are right, float (seeds, items).
        theirs: likewise, its own number of seeds; None for 0.
        seed: of the draws.
        paired_seeds: row k of both sides belongs together (the t-interval is that of the rows' differences); else the
            t-interval is that of ours over its seeds against the mean of theirs.

    Raises:
        ValueError: sides with other numbers of items, or none.
    """
    if ours.ndim != 2 or not ours.size or (theirs is not None and theirs.shape[1:] != ours.shape[1:]):
        raise ValueError("Both sides need the same test items, and at least one seed.")
    generator = np.random.default_rng(seed)
    items, generator.bit_generator.state = _item_weights(seed, ours.shape[1])
    drawn = (_weights(generator, DRAWS, len(ours)) @ ours * items).sum(axis=1)
    by_seed = ours.mean(axis=1)
    value, seeds = float(by_seed.mean()), len(ours)
    if theirs is not None:
        drawn = drawn - (_weights(generator, DRAWS, len(theirs)) @ theirs * items).sum(axis=1)
        value -= float(theirs.mean())
        seeds = min(seeds, len(theirs))
        together = paired_seeds and len(ours) == len(theirs)
        by_seed = by_seed - (theirs.mean(axis=1) if together else theirs.mean())
    low, high = np.percentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(value, float(low), float(high), seeds, *t_interval(by_seed.tolist()))


def slope(points: Sequence[float], gaps: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0) -> Estimate:
    """Least-squares slope of the gap over points, such as log2 of the corpus size.

    Args:
        points: x of each gap.
        gaps: (pre-trained, scratch) at each point, float (seeds, items) each, of the same seeds at all points.
        seed: of the draws: one draw of items, and one of seeds, for all points and both sides.

    Raises:
        ValueError: fewer than two points.
    """
    if len(points) < 2:
        raise ValueError("A slope needs at least two points.")
    centred = np.asarray(points, dtype=float) - np.mean(points)
    weights = centred / (centred**2).sum()
    lever = sum(weight * (ours - theirs) for weight, (ours, theirs) in zip(weights, gaps, strict=True))
    return difference(np.asarray(lever), None, seed)


def committee_correct(member_logits: np.ndarray, labels: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Whether the committees of the first 1, 2, ... members of an order are right: bool (members, items).

    Args:
        member_logits: float (items, members, classes).
        labels: int (items,).
        order: members.
    """
    return _right(_probabilities(member_logits), labels, order)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    chosen = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return chosen / chosen.sum(axis=-1, keepdims=True)


def _right(probabilities: np.ndarray, labels: np.ndarray, order: Sequence[int]) -> np.ndarray:
    sums = probabilities[:, list(order)].cumsum(axis=1)  # of means they differ by a factor, which decides nothing
    return (sums.argmax(axis=-1) == labels[:, None]).T


def committees_of(member_logits: np.ndarray, labels: np.ndarray, count: int, most: int = 100) -> np.ndarray:
    """Whether committees of `count` of the members are right, one row for each of at most `most` random choices.

    Args:
        member_logits: float (items, members, classes).
        labels: int (items,).
        count: members of each committee.
        most: draws; a choice that is drawn again counts once.

    Returns:
        Float (choices, items).
    """
    generator, members = np.random.default_rng(0), member_logits.shape[1]
    choices = {tuple(sorted(generator.choice(members, count, replace=False).tolist())) for _ in range(most)}
    probabilities = _probabilities(member_logits)
    return np.stack([_right(probabilities, labels, each)[-1] for each in sorted(choices)]).astype(float)


def committee_curve(
    member_logits: np.ndarray, labels: np.ndarray, against: np.ndarray | None = None, orders: int = 100, seed: int = 0
) -> list[Estimate]:
    """Accuracy, or its difference from other models, of committees of 1, 2, ... members.

    The value is the mean over random orders of the members; the bootstrap draws an order, test items, and seeds of the
    other models. (All members together are one committee: there only items and seeds move.)

    Args:
        member_logits: float (items, members, classes).
        labels: int (items,).
        against: right or wrong of the models compared with, (seeds, items); None for 0.
        orders: random orders.
        seed: of orders and draws.
    """
    generator = np.random.default_rng(seed)
    members = member_logits.shape[1]
    probabilities = _probabilities(member_logits)
    correct = np.stack(
        [_right(probabilities, labels, generator.permutation(members).tolist()) for _ in range(orders)]
    ).astype(np.float32)  # (orders, members, items)
    items = _weights(generator, DRAWS, len(labels))
    drawn_orders = generator.integers(orders, size=DRAWS)
    other = np.zeros(DRAWS)
    base = 0.0
    if against is not None:
        other = (_weights(generator, DRAWS, len(against)) @ against * items).sum(axis=1)
        base = float(against.mean())
    found = []
    for place in range(members):
        drawn = np.einsum("di,di->d", correct[drawn_orders, place], items) - other
        low, high = np.percentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
        found.append(Estimate(float(correct[:, place].mean()) - base, float(low), float(high), members))
    return found


def first_not_worse(curve: Sequence[Estimate], margin: float) -> int | None:
    """Smallest number from which on all committees have the interval of their difference above `-margin`, or None."""
    smallest = None
    for place in reversed(range(len(curve))):
        if curve[place].low <= -margin:
            break
        smallest = place + 1
    return smallest
