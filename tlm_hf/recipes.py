"""Architectures, sizes and schedules by name; `python -m tlm_hf.recipes` prints their shapes and parameters."""

import itertools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

from .errors import UserError, check_range
from .models.configuration_tlm import TLMConfig

Entry = TypeVar("Entry")
HEAD_SIZE = 64
PAPER_HEADS = 12
NARROW = 384  # the largest hidden size at which one layer starts from weights of 1/sqrt(hidden_size), at the full rate


@dataclass(frozen=True)
class Architecture:
    """One encoder at `paper` width (hidden size 64 x heads), with one (sequence, hidden) kernel for a convolution."""

    name: str
    num_hidden_layers: int
    num_attention_heads: int
    conv_kernel_sizes: tuple[tuple[int, int], ...] = ()
    conv_channels: int | None = None


@dataclass(frozen=True)
class Size:
    """A scale of the family: `heads` of `bert-1` and `bert-6`, and defaults of texts and samples."""

    name: str
    heads: int
    vocab_size: int
    max_length: int
    num_texts: int
    train_per_label: int
    validation_per_label: int
    test_per_label: int
    conv_channels: int | None = None  # of a 64-channel recipe; None: 64 x hidden / 768


@dataclass(frozen=True)
class Schedule:
    """How an encoder is pre-trained: AdamW (first beta 0.9, epsilon 1e-8) and what goes with it.

    The rate rises from 0 over `warmup_steps` (a share of them) and falls to 0 at the last one, both linearly. With
    `parts` it is set once for each of so many equal parts of the run, and 0 in the first, as in the authors' `main.py`.
    """

    name: str
    learning_rate: float  # at the peak
    warmup_steps: float  # share of the steps with rising rate
    weight_decay: float
    decays_everything: bool  # also biases, LayerNorms and embeddings; else matrices alone, as in Trainer
    adam_beta2: float
    max_grad_norm: float  # 0 does not clip
    mlm_probability: float
    dropout: float  # hidden and attention
    initializer_range: float | None  # None for 1/sqrt(hidden size) of one narrow layer, else BERT's 0.02
    parts: int | None = None  # None for a rate that changes at every step
    group_by_length: bool = True  # batches of texts of similar length
    unigram_bias: bool = False  # the decoder's bias starts at log token shares: the first steps need not learn them
    initialization: str = "random"  # of the word rows: or `counts`, those of `data.cooccurrence`
    neighbour_heads: bool = False  # the first layer's heads start as those of `start_with_neighbours`
    cls_objective: bool = False  # [CLS] predicts a word of its text: nothing else trains it in a one-layer encoder
    full_rate_up_to: int | None = None  # wider encoders take the rate times the square of this over their width

    def factor(self, step: int, steps: int) -> float:
        """Share of the peak rate at step `step` = 0, 1, ... of `steps`, for a schedule with `parts`."""
        parts = self.parts or 1
        part = min(step * parts // steps, parts)
        return max(0.0, (parts - part) / (parts - 1)) if part else 0.0


def _by_name(*entries: Entry) -> dict[str, Entry]:
    return {vars(entry)["name"]: entry for entry in entries}


OUR_START: Any = {"initialization": "counts", "unigram_bias": True, "neighbour_heads": True, "cls_objective": True}
PRETRAINING_SCHEDULES = _by_name(
    Schedule("tlm", 2e-3, 0.1, 0.01, False, 0.98, 1.0, 0.3, 0.0, None, **OUR_START, full_rate_up_to=NARROW),
    Schedule("paper", 5e-5, 0.0, 0.01, True, 0.999, 0.0, 0.15, 0.1, 0.02, parts=50, group_by_length=False),
    Schedule("paper-repaired", 5e-5, 0.02, 0.01, True, 0.999, 0.0, 0.15, 0.1, 0.02, group_by_length=False),
)

COMMON = {"batch_size": 32, "weight_decay": 0.01, "dropout": 0.1}
FINETUNING_SCHEDULES: dict[str, dict[str, float]] = {
    "tlm": {"num_train_epochs": 8.0, "learning_rate": 1e-3, "warmup_steps": 0.1, "max_grad_norm": 1.0, **COMMON},
    "paper": {"num_train_epochs": 50.0, "learning_rate": 5e-5, "warmup_steps": 0.0, "max_grad_norm": 0.0, **COMMON},
}
"""Options that were not given. `paper` (the authors' settings) also decays every weight and lowers the learning rate
once an epoch; `tlm` decays matrices alone and lowers it each step."""

ARCHITECTURES = _by_name(
    Architecture("bert-6", 6, 12),
    Architecture("bert-1", 1, 12),
    Architecture("bert-1-wide", 1, 24),
    Architecture("bert-1-conv2", 1, 12, ((3, 3), (3, 3)), 64),
    Architecture("bert-1-conv2-h8", 1, 8, ((3, 3), (3, 3)), 64),
    Architecture("bert-1-conv3", 1, 12, ((3, 3), (3, 3), (3, 3)), 32),
    Architecture("bert-1-conv2-k16", 1, 12, ((16, 16), (3, 3)), 64),
)

SIZES = _by_name(
    Size("smoke", 1, 1000, 32, 500, 20, 10, 10, conv_channels=4),
    Size("quickstart", 2, 8000, 64, 30_000, 200, 100, 100),
    Size("laptop", 4, 8000, 64, 100_000, 1000, 200, 500),
    Size("paper", 12, 30522, 128, 40_000, 1000, 200, 1000),
)


def _find(registry: Mapping[str, Entry], kind: str, name: str) -> Entry:
    if name not in registry:
        raise UserError(f"There is no {kind} {name!r}; choose one of {', '.join(registry)}.")
    return registry[name]


find_architecture = partial(_find, ARCHITECTURES, "recipe")
find_size = partial(_find, SIZES, "size")


def build_config(
    recipe: str,
    size: str,
    *,
    vocab_size: int | None = None,
    max_length: int | None = None,
    hidden_size: int | None = None,
    num_hidden_layers: int | None = None,
    num_attention_heads: int | None = None,
    initializer_range: float | None = None,
    dropout: float = 0.1,
) -> TLMConfig:
    """Configuration of `recipe@size` with fields overridden; heads and channels follow the width.

    Raises UserError for an unknown name, a number below 1, or heads that do not divide the hidden size.
    """
    architecture, scale = find_architecture(recipe), find_size(size)
    shape = {"vocab_size": vocab_size, "max_length": max_length, "hidden_size": hidden_size}
    shape |= {"num_hidden_layers": num_hidden_layers, "num_attention_heads": num_attention_heads}
    check_range(SimpleNamespace(**shape), 1, math.inf, *shape)
    heads_of_size = max(1, round(architecture.num_attention_heads * scale.heads / PAPER_HEADS))
    heads = num_attention_heads or (max(1, hidden_size // HEAD_SIZE) if hidden_size else heads_of_size)
    hidden = hidden_size or HEAD_SIZE * heads
    if hidden % heads:
        remedy = f"choose a multiple of {heads}, or set --num-attention-heads"
        raise UserError(f"hidden size {hidden} is not divisible by {heads} attention heads; {remedy}.")
    channels = None
    if architecture.conv_channels is not None:
        at_64 = scale.conv_channels if scale.conv_channels is not None else 64 * scale.heads / PAPER_HEADS
        wider = hidden / (HEAD_SIZE * heads_of_size)  # 1 unless the width was overridden
        channels = max(1, round(architecture.conv_channels / 64 * at_64 * wider))
    layers = num_hidden_layers or architecture.num_hidden_layers
    if initializer_range is None:  # measured at widths 256 and 768 (results/training/LOG.md, sections 2 and 8)
        initializer_range = max(0.02, hidden**-0.5) if layers == 1 and hidden <= NARROW else 0.02
    return TLMConfig(
        vocab_size=vocab_size or scale.vocab_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=max_length or scale.max_length,
        initializer_range=initializer_range,
        conv_channels=channels,
        conv_kernel_sizes=[list(pair) for pair in architecture.conv_kernel_sizes] or None,
    )


def describe_recipes() -> str:
    """Table of every recipe at every size: shape, and parameters as counted on the built model."""
    import torch

    from .models.modeling_tlm import TLMModel

    rows = [f"{'':<27}{'layers':>7}{'hidden':>7}{'heads':>6}{'parameters':>12}"]
    for size, recipe in itertools.product(SIZES, ARCHITECTURES):
        config = build_config(recipe, size)
        with torch.device("meta"):
            parameters = TLMModel(config).num_parameters()
        shape = f"{config.num_hidden_layers:>7}{config.hidden_size:>7}{config.num_attention_heads:>6}"
        rows.append(f"{recipe + '@' + size:<27}{shape}{parameters:>12,}")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(describe_recipes() + "\n")
