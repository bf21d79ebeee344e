"""Training speed against the authors' way: one optimizer step, and the real pre-training command.

The authors' way is stock BERT with the logits of every position, float32 and `torch.optim.AdamW` with its defaults.
Each side of a comparison has a process, so that its peak memory and its allocator's setting are its own. The sides
take turns, never two at a time. All of them hold their models and optimizers throughout.
"""

import gc
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..errors import UserError, check_range
from ..models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification
from ..recipes import build_config
from ..runs.atomic_files import Json
from ..training.callbacks import OTHER, WARM_STEPS, StepClock
from ..training.pretrain import pretrain
from ..training.trainer import RunTrainer, keep_freed_memory
from .measure import alternating_seconds, check_stock_recipe, finish, measure_seconds, peak_memory, stock_config

LABELS = 4
EPOCHS = 50
"""Passes of the authors' pre-training over their texts (arXiv 2507.14871)."""
TASKS = {
    "pretraining": (BertForMaskedLM, TLMForMaskedLM),
    "finetuning": (BertForSequenceClassification, TLMForSequenceClassification),
}


@dataclass
class StepArguments:
    """Options of `tlm benchmark pretraining` and `tlm benchmark finetuning`."""

    what: str = field(metadata={"help": "pretraining or finetuning."})
    recipe: str = field(default="bert-1", metadata={"help": "Architecture (python -m tlm_hf.recipes lists them)."})
    size: str = field(default="paper", metadata={"help": "Its size."})
    batch_size: int = field(default=32, metadata={"help": "Texts per optimizer step."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens per text, in place of the size's."})
    repeats: int = field(default=5, metadata={"help": "Timed rounds (medians are taken)."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of both sides (the authors': 0.1)."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of tokens to predict (the authors': 0.15)."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of each side; default: the cores."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})


@dataclass(frozen=True)
class Side:
    """One way to take a step.

    Args:
        stock: stock BERT (else ours).
        dropout: hidden and attention dropout.
        keeps_memory: with the allocator's setting of our training commands.
        best: bfloat16 autocast, fused AdamW and gradient clipping, as in our training commands.
    """

    stock: bool
    dropout: float = 0.0
    keeps_memory: bool = False
    best: bool = False


def build_model(arguments: StepArguments, side: Side) -> PreTrainedModel:
    """The side's model in training mode; the seeded weights are equal on all sides."""
    config = build_config(arguments.recipe, arguments.size, max_length=arguments.max_length, dropout=side.dropout)
    config.id2label = {index: f"LABEL_{index}" for index in range(LABELS)}
    stock_class, our_class = TASKS[arguments.what]
    torch.manual_seed(0)
    return stock_class(stock_config(config, LABELS)).train() if side.stock else our_class(config).train()


def build_batch(arguments: StepArguments, vocab_size: int, length: int) -> dict[str, torch.Tensor]:
    """Random texts of full length: `input_ids`, `attention_mask` (batch, length), and the task's `labels`."""
    generator = torch.Generator().manual_seed(1)
    shape = (arguments.batch_size, length)
    input_ids = torch.randint(5, vocab_size, shape, generator=generator)
    if arguments.what == "finetuning":
        labels = torch.randint(0, LABELS, (arguments.batch_size,), generator=generator)
    else:
        labels = torch.where(torch.rand(shape, generator=generator) < arguments.mlm_probability, input_ids, -100)
        labels[0, 0] = input_ids[0, 0]  # at least one
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}


class SideProcess:
    """The work of a side in its process: a model, a batch and an optimizer."""

    current: "SideProcess"

    def __init__(self, arguments: StepArguments, side: Side, threads: int) -> None:
        torch.set_num_threads(threads)
        self.memory_before = peak_memory()
        if side.keeps_memory:
            keep_freed_memory()
        self.side = side
        self.model = build_model(arguments, side)
        config = self.model.config
        self.batch = build_batch(arguments, config.vocab_size, config.max_position_embeddings)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-5, weight_decay=0.01, fused=side.best or None)
        gc.collect()

    def step(self) -> float:
        """Take one optimizer step and return its loss."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.side.best):
            loss = self.model(**self.batch).loss
        loss.backward()
        if self.side.best:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def memory(self) -> float | None:
        """Peak memory in MiB above that after the imports; None where it cannot be read."""
        peak = peak_memory()
        return None if peak is None or self.memory_before is None else round(peak - self.memory_before, 1)


def _start_side(*arguments: Any) -> None:
    SideProcess.current = SideProcess(*arguments)


def _ask_side(method: str) -> float | None:
    return getattr(SideProcess.current, method)()


@contextmanager
def running_side(arguments: StepArguments, side: Side, threads: int) -> Iterator[Callable[[str], float | None]]:
    """Start a side's process and give a function that calls a method of its `SideProcess`.

    Raises:
        UserError: the process ended early.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, _start_side, (arguments, side, threads)) as pool:

        def ask(method: str) -> float | None:
            try:
                return pool.submit(_ask_side, method).result()
            except BrokenProcessPool as error:
                raise UserError(
                    "A process of the benchmark ended early: lower --batch-size, or free memory."
                ) from error

        ask("memory")  # waits for the imports and the model
        yield ask


def compare_losses(arguments: StepArguments) -> Json:
    """Loss and gradients of ours against stock BERT: dropout 0, float32, the same weights, batch and masks.

    Returns:
        `loss` and `loss_difference` in nats, and `gradient_difference`: the largest entry of the difference as a share
        of the largest entry of stock BERT's gradients.
    """
    stock, ours = (build_model(arguments, Side(stock=stock)) for stock in (True, False))
    ours.load_state_dict(stock.state_dict())
    batch = build_batch(arguments, stock.config.vocab_size, stock.config.max_position_embeddings)
    losses = [model(**batch).loss for model in (stock, ours)]
    for loss in losses:
        loss.backward()
    gradients = {name: parameter.grad for name, parameter in stock.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    difference = max(float((weight.grad - gradients[name]).abs().max()) for name, weight in ours.named_parameters())
    return {
        "loss": losses[0].item(),
        "loss_difference": abs(losses[0].item() - losses[1].item()),
        "gradient_difference": difference / largest,
    }


def benchmark_steps(arguments: StepArguments) -> Json:
    """Time one optimizer step, forward, backward and AdamW, against stock BERT's, and compare losses and memory.

    Raises:
        UserError: unknown recipe or size, a recipe that stock BERT does not have, or a number out of range.
    """
    check_range(arguments, 1, 2**20, "batch_size", "max_length", "repeats", "num_threads")
    check_range(arguments, 0, 0.99, "dropout")
    check_range(arguments, 0.01, 0.99, "mlm_probability")
    check_stock_recipe(arguments.recipe, arguments.size, arguments.max_length)
    threads = arguments.num_threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    best = Side(stock=False, keeps_memory=True, best=True)
    sides = {
        "stock": Side(stock=True, dropout=arguments.dropout),
        "stock_same_allocator": Side(stock=True, dropout=arguments.dropout, keeps_memory=True),
        "ours_same_precision": Side(stock=False, dropout=arguments.dropout, keeps_memory=True),
        "ours_best_same_dropout": replace(best, dropout=arguments.dropout),
    }
    if arguments.what == "pretraining":
        sides["ours_best"] = best  # our pre-training command's default is no dropout
    differences = compare_losses(arguments)
    gc.collect()
    with ExitStack() as stack:
        ask = {name: stack.enter_context(running_side(arguments, side, threads)) for name, side in sides.items()}
        steps = {name: partial(function, "step") for name, function in ask.items()}
        seconds = alternating_seconds(steps, arguments.repeats)
        memory = {name: function("memory") for name, function in ask.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians["stock"] / value for name, value in medians.items()}
    results = {
        "benchmark": arguments.what,
        "recipe": f"{arguments.recipe}@{arguments.size}",
        "ratio_same_precision": ratios["ours_same_precision"],
        "ratio_best": ratios.get("ours_best", ratios["ours_best_same_dropout"]),
        "ratio_best_same_dropout": ratios["ours_best_same_dropout"],
        "ratio_same_precision_and_allocator": medians["stock_same_allocator"] / medians["ours_same_precision"],
        **differences,
        "median_seconds": medians,
        "seconds": seconds,
        "peak_memory_mib": memory,
        "sides": {name: asdict(side) for name, side in sides.items()},
    }
    return finish(arguments, results)


@dataclass
class TrainingSpeedArguments:
    """Options of `tlm benchmark training`."""

    corpus: str = field(default="wikipedia", metadata={"help": "As in tlm pretrain."})
    recipe: str = field(default="bert-1", metadata={"help": "Architecture (python -m tlm_hf.recipes lists them)."})
    size: str = field(default="paper", metadata={"help": "Its size."})
    schedule: str = field(default="tlm", metadata={"help": "As in tlm pretrain."})
    num_texts: int | None = field(default=None, metadata={"help": "Texts to train on, in place of the size's."})
    batch_size: int = field(default=32, metadata={"help": "Texts per optimizer step."})
    max_steps: int = field(default=300, metadata={"help": "Optimizer steps of the training."})
    stock_steps: int = field(default=10, metadata={"help": "Timed steps the authors' way."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of each side; default: the cores."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})


class StockBetween(TrainerCallback):
    """Times a step the authors' way every so often, in another process, while the training waits.

    Args:
        step: takes a stock step.
        max_steps: steps of the training.
        count: stock steps to time, at equal distances.
    """

    clock: StepClock

    def __init__(self, step: Callable[[], object], max_steps: int, count: int) -> None:
        self.step, self.max_steps, self.count = step, max_steps, count
        self.seconds: list[float] = []

    def observe(self, trainer: RunTrainer) -> None:
        """Join a training before it begins."""
        self.clock = trainer.clock
        trainer.add_callback(self)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Let the training wait for a stock step, which its clock leaves out."""
        if state.global_step * self.count >= self.max_steps * (len(self.seconds) + 1):
            with self.clock.apart(OTHER):
                self.seconds.append(measure_seconds(self.step))


def benchmark_training(arguments: TrainingSpeedArguments) -> Json:
    """Measure the real pre-training command beside steps the authors' way, and estimate the paper's whole training.

    Loading, masking, logging, evaluation and checkpoints are part of it; the trained model is thrown away.

    Returns:
        `tokens_per_second`; `share_outside` of the time, evaluation and checkpoints apart, that is neither forward,
        backward nor optimizer; `step_seconds` and `stock_step_seconds` (medians) and their `ratio`; `hours` and
        `stock_hours` for the authors' 50 epochs of these texts.

    Raises:
        UserError: bad options.
    """
    check_range(arguments, 2 * WARM_STEPS, 10**6, "max_steps")
    check_range(arguments, 1, arguments.max_steps, "stock_steps")
    check_range(arguments, 1, 2**20, "batch_size", "num_texts", "num_threads")
    check_stock_recipe(arguments.recipe, arguments.size)
    threads = arguments.num_threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    stock = StepArguments("pretraining", arguments.recipe, arguments.size, arguments.batch_size)
    with tempfile.TemporaryDirectory() as folder, running_side(stock, Side(True, stock.dropout), threads) as ask:
        between = StockBetween(partial(ask, "step"), arguments.max_steps, arguments.stock_steps)
        training = pretrain(
            observe=between.observe,
            output_dir=f"{folder}/run",
            corpus=arguments.corpus,
            recipe=arguments.recipe,
            size=arguments.size,
            schedule=arguments.schedule,
            num_texts=arguments.num_texts,
            batch_size=arguments.batch_size,
            max_steps=arguments.max_steps,
            data_root=arguments.data_root,
            num_threads=threads,
            use_cpu=True,
        )
    speed = training["speed"]
    own_seconds = training["seconds_since_start_or_continuation"] - speed["seconds_apart"][OTHER]
    stock_step = statistics.median(between.seconds)
    steps = EPOCHS * training["texts"] / arguments.batch_size
    results = {
        "benchmark": "training",
        "recipe": f"{arguments.recipe}@{arguments.size}",
        "schedule": arguments.schedule,
        "precision": "bfloat16" if training["settings"]["bf16"] else "float32",
        "tokens_per_second": speed["tokens_per_second"],
        "share_outside": speed["share_outside"],
        "step_seconds": speed["median_step_seconds"],
        "stock_step_seconds": stock_step,
        "ratio": stock_step / speed["median_step_seconds"],
        "stock_seconds": between.seconds,
        "hours": steps * own_seconds / training["steps"] / 3600,
        "stock_hours": steps * stock_step / 3600,
        "steps": training["steps"],
        "texts": training["texts"],
        "speed": speed,
    }
    return finish(arguments, results)
