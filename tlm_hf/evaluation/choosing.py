"""Choosing members on a validation split, and accuracy against their number, from logits (n, members, classes).

Only `accuracy_by_count` and `accuracy_curve` may look at a test split: they choose nothing.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.special import log_softmax

from ..models.combination_committee import combine
from ..runs.figure import new_figure

ORDERS = 100
"""Random orders of an accuracy curve, drawn with seed 0."""


def combined(member_logits: np.ndarray, members: Sequence[int], combination: str) -> np.ndarray:
    """Logits (n, classes) of the committee of some members, at temperature 1."""
    chosen = torch.from_numpy(np.ascontiguousarray(member_logits[:, list(members)]))
    return combine(chosen, combination).numpy()


def greedy_order(member_logits: np.ndarray, labels: np.ndarray, combination: str = "probabilities") -> list[int]:
    """Forward selection (Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004), without repetition.

    Each round adds the member with which the committee is most accurate; among equals the one of the lowest
    cross-entropy. Returns all members in that order.
    """
    order: list[int] = []
    rest = list(range(member_logits.shape[1]))
    rows = np.arange(len(labels))
    while rest:
        candidates = []
        for member in rest:
            logits = combined(member_logits, [*order, member], combination)
            loss = -log_softmax(logits, axis=-1)[rows, labels].mean()
            candidates.append((-(logits.argmax(axis=-1) == labels).mean(), loss, member))
        best = min(candidates)[2]
        order.append(best)
        rest.remove(best)
    return order


def accuracy_by_count(
    member_logits: np.ndarray, labels: np.ndarray, order: Sequence[int], combination: str = "probabilities"
) -> list[float]:
    """Accuracy of the committee of the first 1, 2, ... members of `order`."""
    return [
        float((combined(member_logits, order[: count + 1], combination).argmax(axis=-1) == labels).mean())
        for count in range(len(order))
    ]


def accuracy_curve(
    member_logits: np.ndarray, labels: np.ndarray, greedy: Sequence[int], combination: str = "probabilities"
) -> list[dict[str, float]]:
    """Accuracy by number of members: `greedy`, and over random orders `mean`, `low` (5th percentile), `high` (95th)."""
    generator = np.random.default_rng(0)
    orders = [generator.permutation(member_logits.shape[1]).tolist() for _ in range(ORDERS)]
    random = np.array([accuracy_by_count(member_logits, labels, order, combination) for order in orders])
    chosen = accuracy_by_count(member_logits, labels, greedy, combination)
    low, high = np.percentile(random, [5, 95], axis=0)
    return [
        {
            "members": count + 1,
            "greedy": chosen[count],
            "mean": float(random[:, count].mean()),
            "low": float(low[count]),
            "high": float(high[count]),
        }
        for count in range(len(chosen))
    ]


def draw_curve(curve: list[dict[str, float]], path: Path, title: str) -> None:
    """Draw what `accuracy_curve` gives into a PNG: the greedy order, and the band over random orders."""
    counts = [int(row["members"]) for row in curve]
    percent = {name: [100 * row[name] for row in curve] for name in ("greedy", "mean", "low", "high")}
    with new_figure(path, title, "members", "accuracy (%)") as axes:
        label = "random orders, 5% to 95%"
        axes.fill_between(counts, percent["low"], percent["high"], color="#2f6db5", alpha=0.2, linewidth=0, label=label)
        axes.plot(counts, percent["mean"], color="#2f6db5", label="random orders, mean")
        axes.plot(counts, percent["greedy"], "o-", color="#b5532f", label="greedy on validation")
        axes.set_xticks(counts if len(counts) <= 12 else counts[:: len(counts) // 10])
        axes.legend(frameon=False)
