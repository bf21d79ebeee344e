"""What a training takes where the plan gives no value: part of a run's address as soon as any of it changes."""

import hashlib
import json
from dataclasses import asdict
from functools import cache

from ..recipes import ARCHITECTURES, SIZES, build_config, find_schedule
from ..training.finetune import SCHEDULES

FIRST = "89913d93ed1a089d2d130000849bf1dc5a2470f283690538eec802aee93bec63"
"""SHA-256 of the defaults that the committed records were made with; runs under these bear no mark, so that the records
keep their names."""
SHAPE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "hidden_act", "layer_norm_eps", "initializer_range", "conv_channels",
    "conv_kernel_sizes",
)  # fmt: skip
ADDRESSED = ("pretrain", "finetune")


@cache
def defaults_hash() -> str:
    """SHA-256 over the schedules, sizes, and shapes and initial weights of all recipes."""
    shapes = {
        f"{recipe}@{size}": {name: getattr(build_config(recipe, size), name) for name in SHAPE}
        for recipe in ARCHITECTURES
        for size in SIZES
    }
    values = {
        "pretraining": asdict(find_schedule("tlm")),
        "finetuning": SCHEDULES["tlm"],
        "sizes": {name: asdict(size) for name, size in SIZES.items()},
        "shapes": shapes,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def mark(kind: str) -> dict[str, str]:
    """What a run's address holds beside its settings; nothing under the first defaults."""
    return {"defaults": defaults_hash()} if kind in ADDRESSED and defaults_hash() != FIRST else {}
