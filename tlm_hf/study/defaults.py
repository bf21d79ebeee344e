"""What a training takes where the plan gives no value: part of a run's address as soon as any of it changes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from ..recipes import Architecture, Size, build_config, find_architecture, find_schedule, find_size
from ..training.finetune import SCHEDULES

FIRST_FILE = Path(__file__).with_name("first_defaults.json")
"""The defaults that the committed records were made with; runs under these bear no mark, so that the records keep
their names."""
SHAPE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "initializer_range", "conv_channels",
    "conv_kernel_sizes",
)  # fmt: skip
ADDRESSED = ("pretrain", "finetune")


@cache
def _first() -> dict[str, Any]:
    """Schedules by kind of run, sizes, and shapes by recipe@size."""
    found: dict[str, Any] = json.loads(FIRST_FILE.read_text(encoding="utf-8"))
    return found


def mark(kind: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """What a run's address holds beside its settings; nothing under the first defaults.

    Only what the run itself takes counts: its schedule, size, and its recipe's shape and initial weights at that size.
    So a further recipe, or a change of another one, leaves it alone.
    """
    if kind not in ADDRESSED:
        return {}
    recipe, size = settings["recipe"], settings["size"]
    schedule = asdict(find_schedule("tlm")) if kind == "pretrain" else SCHEDULES["tlm"]
    digest = _digest(kind, json.dumps(schedule, sort_keys=True), find_architecture(recipe), find_size(size))
    return {} if digest is None else {"defaults": digest}


@cache  # a name is asked for thousands of times
def _digest(kind: str, schedule: str, recipe: Architecture, size: Size) -> str | None:
    """SHA-256 of what a run takes; None where it is what the first records took."""
    config, first = build_config(recipe.name, size.name), _first()
    shape = {name: getattr(config, name) for name in SHAPE}
    taken = {"schedule": json.loads(schedule), "size": asdict(size), "shape": shape}
    known = {
        "schedule": first[kind], "size": first["sizes"].get(size.name),
        "shape": first["shapes"].get(f"{recipe.name}@{size.name}"),
    }  # fmt: skip
    text = json.dumps(taken, sort_keys=True)
    return None if json.loads(text) == known else hashlib.sha256(text.encode()).hexdigest()
