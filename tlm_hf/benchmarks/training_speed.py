"""One optimizer step against the authors' way: stock BERT, all logits, float32, `torch.optim.AdamW`'s defaults."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from transformers import BertForMaskedLM, BertForSequenceClassification, PreTrainedModel

from ..errors import check_range
from ..evaluation.latency import alternating_seconds
from ..models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification
from ..option_fields import option
from ..runs.atomic_files import Json
from ..training.trainer import keep_freed_memory
from .measure import LABELS, TimingArguments, build_recipe, finish, stock_config

TASKS = {
    "pretraining": (BertForMaskedLM, TLMForMaskedLM),
    "finetuning": (BertForSequenceClassification, TLMForSequenceClassification),
}


@dataclass(frozen=True)
class Side:
    """One way to take a step; `best` is bfloat16 autocast, fused AdamW and gradient clipping, as our commands train."""

    stock: bool = False
    dropout: float = 0.1  # the authors'
    best: bool = False


SIDES = {
    "stock": Side(stock=True),
    "ours_same_precision": Side(),
    "ours_best_same_dropout": Side(best=True),
    "ours_best": Side(best=True, dropout=0.0),  # the default of our pre-training
}


@dataclass
class StepArguments(TimingArguments):
    """Options of `tlm benchmark pretraining` and `tlm benchmark finetuning`."""

    what: str = option("pretraining", "pretraining or finetuning.")
    recipe: str = option("bert-1", "Architecture (python -m tlm_hf.recipes lists them).")
    size: str = option("paper", "Its size.")
    batch_size: int = option(32, "Texts per optimizer step.")
    mlm_probability: float = option(0.15, "Share of tokens to predict (the authors': 0.15).")


def build_model(arguments: StepArguments, side: Side) -> PreTrainedModel:
    """The side's model in training mode; the seeded weights are equal on all sides."""
    config = build_recipe(arguments.recipe, arguments.size, dropout=side.dropout)
    stock_class, our_class = TASKS[arguments.what]
    torch.manual_seed(0)
    return stock_class(stock_config(config)).train() if side.stock else our_class(config).train()


def build_batch(arguments: StepArguments, vocab_size: int, length: int) -> dict[str, torch.Tensor]:
    """Random texts of full length: `input_ids`, `attention_mask` (batch, length), and the task's `labels`."""
    generator = torch.Generator().manual_seed(1)
    shape = (arguments.batch_size, length)
    input_ids = torch.randint(5, vocab_size, shape, generator=generator)
    if arguments.what == "finetuning":
        labels = torch.randint(0, len(LABELS), shape[:1], generator=generator)
    else:
        labels = torch.where(torch.rand(shape, generator=generator) < arguments.mlm_probability, input_ids, -100)
        labels[0, 0] = input_ids[0, 0]  # at least one
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


def _build_step(arguments: StepArguments, side: Side) -> Callable[[], None]:
    model = build_model(arguments, side)
    batch = build_batch(arguments, model.config.vocab_size, model.config.max_position_embeddings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01, fused=side.best or None)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=side.best):
            loss = model(**batch).loss
        loss.backward()
        if side.best:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def benchmark_steps(arguments: StepArguments) -> Json:
    """Time one optimizer step, forward, backward and AdamW, against stock BERT's, in turns.

    Returns `median_seconds` of each of the `SIDES`, and `ratios`, stock's over it. All have the allocator's setting of
    our training commands. Raises UserError for a recipe that stock BERT does not have, or a number out of range.
    """
    check_range(arguments, 1, 2**20, "batch_size")
    check_range(arguments, 0.01, 0.99, "mlm_probability")
    build_recipe(arguments.recipe, arguments.size, stock=True)
    arguments.set_threads()
    keep_freed_memory()
    sides = dict(SIDES)
    if arguments.what == "finetuning":
        del sides["ours_best"]
    steps = {name: _build_step(arguments, side) for name, side in sides.items()}
    seconds = alternating_seconds(steps, arguments.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    results = {
        "benchmark": arguments.what,
        "recipe": f"{arguments.recipe}@{arguments.size}",
        "ratios": {name: medians["stock"] / value for name, value in medians.items()},
        "median_seconds": medians,
        "seconds": seconds,
        "sides": {name: asdict(side) for name, side in sides.items()},
    }
    return finish(arguments, results)
