"""What the results of several members say together."""

import statistics
from collections.abc import Sequence
from typing import Any


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values)}


def sum_up_losses(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Results of pre-trained members: what they share, each one's loss, and mean, lowest and highest (nats a token)."""
    names = ("folder", "seed", "held_out", "steps", "seconds_since_start_or_continuation")
    return {
        "model": rows[0]["model"],
        "corpus": rows[0]["corpus"],
        "parameters": rows[0]["parameters"],
        "steps": rows[0]["steps"],
        "held_out": {"loss": _spread([row["held_out"]["loss"] for row in rows])},
        "members": [{name: row[name] for name in names} for row in rows],
    }


def sum_up_scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Results of fine-tuned members: what they share, each one's scores, and mean, lowest and highest accuracy."""
    names = (
        *("folder", "seed", "model", "parameters", "trainable_parameters", "validation", "test"),
        *("best_step", "steps", "seconds_since_start_or_continuation"),
    )
    same = ("task", "labels", "rows", "from_scratch", "schedule")
    scores = {
        split: {"accuracy": _spread([row[split]["accuracy"] for row in rows])} for split in ("validation", "test")
    }
    members = [{name: row[name] for name in names} for row in rows]
    return {name: rows[0][name] for name in same} | scores | {"members": members}
