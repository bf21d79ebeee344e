"""Choosing members on a validation split, and accuracy against the number of members.

Everything works on the members' logits, so no model runs here. Nothing looks at a test split but `accuracy_by_count`,
which chooses nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax

from ..models.combination_committee import combine


def combined(member_logits: np.ndarray, members: Sequence[int], combination: str) -> np.ndarray:
    """Logits (n, classes) of the committee of some members, at temperature 1."""
    chosen = torch.from_numpy(np.ascontiguousarray(member_logits[:, list(members)]))
    return combine(chosen, combination).numpy()


def greedy_order(member_logits: np.ndarray, labels: np.ndarray, combination: str = "probabilities") -> list[int]:
    """Forward selection (Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004), without repetition.

    Each round adds the member with which the committee is most accurate; among equals the one of the lowest
    cross-entropy.

    Args:
        member_logits: float (n, members, classes), of a validation split.
        labels: int (n,).
        combination: as in `CommitteeConfig`.

    Returns:
        All members, in the order in which they are added.
    """
    order: list[int] = []
    left = list(range(member_logits.shape[1]))
    rows = np.arange(len(labels))
    while left:
        worth = []
        for member in left:
            logits = combined(member_logits, [*order, member], combination)
            loss = -log_softmax(logits, axis=-1)[rows, labels].mean()
            worth.append((-(logits.argmax(axis=-1) == labels).mean(), loss, member))
        best = min(worth)[2]
        order.append(best)
        left.remove(best)
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
    member_logits: np.ndarray,
    labels: np.ndarray,
    greedy: Sequence[int],
    combination: str = "probabilities",
    orders: int = 100,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Accuracy against the number of members, for the greedy order and for random ones.

    Args:
        member_logits: float (n, members, classes).
        labels: int (n,).
        greedy: members in the order of `greedy_order`.
        combination: as in `CommitteeConfig`.
        orders: random orders.
        seed: of the random orders.

    Returns:
        For each number of members: `members`, `greedy`, and `mean`, `low` and `high` (the 5th and 95th percentile) over
        the random orders.
    """
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(member_logits.shape[1]).tolist() for _ in range(orders)]
    random = np.array([accuracy_by_count(member_logits, labels, order, combination) for order in drawn])
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


def draw_curve(curve: list[dict[str, Any]], path: Path, title: str) -> Path:
    """Draw what `accuracy_curve` gives into a PNG: the greedy order, and the band over random orders."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    counts = [row["members"] for row in curve]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.fill_between(
        counts,
        [100 * row["low"] for row in curve],
        [100 * row["high"] for row in curve],
        color="#2f6db5",
        alpha=0.2,
        linewidth=0,
        label="random orders, 5% to 95%",
    )
    axes.plot(counts, [100 * row["mean"] for row in curve], color="#2f6db5", label="random orders, mean")
    axes.plot(counts, [100 * row["greedy"] for row in curve], "o-", color="#b5532f", label="greedy on validation")
    axes.set_xlabel("members")
    axes.set_ylabel("accuracy (%)")
    axes.set_xticks(counts if len(counts) <= 12 else counts[:: len(counts) // 10])
    axes.set_title(title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
