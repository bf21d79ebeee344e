"""Training speed against the authors' way: one optimizer step, and the real pre-training command.

The authors' way is stock BERT with the logits of every position, float32 and `torch.optim.AdamW` with its defaults.
Each side of a comparison has a process, so that its peak memory and its allocator's setting are its own. The sides
take turns, never two at a time. All of them hold their models and optimizers throughout.
"""

import multiprocessing
import re
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import BertForMaskedLM, BertForSequenceClassification, PreTrainedModel

from ..data.task_options import option
from ..errors import check_range
from ..evaluation.latency import alternating_seconds, measure_seconds
from ..models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification
from ..runs.atomic_files import Json
from ..training.callbacks import WARM_STEPS
from ..training.pretrain import pretrain
from ..training.trainer import keep_freed_memory
from .measure import LABELS, SpeedArguments, build_recipe, finish, stock_config

EPOCHS = 50
"""Passes of the authors' pre-training over their texts (arXiv 2507.14871)."""
TASKS = {
    "pretraining": (BertForMaskedLM, TLMForMaskedLM),
    "finetuning": (BertForSequenceClassification, TLMForSequenceClassification),
}


@dataclass
class StepArguments(SpeedArguments):
    """Options of `tlm benchmark pretraining` and `tlm benchmark finetuning`."""

    what: str = option("pretraining", "pretraining or finetuning.")
    batch_size: int = option(32, "Texts per optimizer step.")
    max_length: int | None = option(None, "Tokens per text, in place of the size's.")
    dropout: float = option(0.1, "Dropout of both sides (the authors': 0.1).")
    mlm_probability: float = option(0.15, "Share of tokens to predict (the authors': 0.15).")


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
    config = build_recipe(arguments.recipe, arguments.size, max_length=arguments.max_length, dropout=side.dropout)
    stock_class, our_class = TASKS[arguments.what]
    torch.manual_seed(0)
    return stock_class(stock_config(config)).train() if side.stock else our_class(config).train()


def build_batch(arguments: StepArguments, vocab_size: int, length: int) -> dict[str, torch.Tensor]:
    """Random texts of full length: `input_ids`, `attention_mask` (batch, length), and the task's `labels`."""
    generator = torch.Generator().manual_seed(1)
    shape = (arguments.batch_size, length)
    input_ids = torch.randint(5, vocab_size, shape, generator=generator)
    if arguments.what == "finetuning":
        labels = torch.randint(0, len(LABELS), (arguments.batch_size,), generator=generator)
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


def peak_memory() -> float | None:
    """Largest resident memory of this process so far, in MiB (Linux; None elsewhere)."""
    status = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii")) if status.exists() else None
    return int(match[1]) / 1024 if match else None


def _start(*arguments: Any) -> None:
    SideProcess.current = SideProcess(*arguments)


def _call(method: str) -> float | None:
    return getattr(SideProcess.current, method)()


def start_side(stack: ExitStack, *arguments: Any) -> Callable[[str], float | None]:
    """Start a `SideProcess` that ends with `stack`; gives a function that calls a method of it by name."""
    spawn = multiprocessing.get_context("spawn")
    pool = stack.enter_context(ProcessPoolExecutor(1, spawn, _start, arguments))
    pool.submit(_call, "memory").result()  # waits for the imports and the model
    return lambda method: pool.submit(_call, method).result()


def benchmark_steps(arguments: StepArguments) -> Json:
    """Time one optimizer step, forward, backward and AdamW, against stock BERT's, and compare the memory.

    Raises:
        UserError: unknown recipe or size, a recipe that stock BERT does not have, or a number out of range.
    """
    check_range(arguments, 1, 2**20, "batch_size", "max_length")
    check_range(arguments, 0, 0.99, "dropout")
    check_range(arguments, 0.01, 0.99, "mlm_probability")
    build_recipe(arguments.recipe, arguments.size, stock=True, max_length=arguments.max_length)
    threads = arguments.set_threads()
    best = Side(stock=False, keeps_memory=True, best=True)
    sides = {
        "stock": Side(stock=True, dropout=arguments.dropout),
        "stock_same_allocator": Side(stock=True, dropout=arguments.dropout, keeps_memory=True),
        "ours_same_precision": Side(stock=False, dropout=arguments.dropout, keeps_memory=True),
        "ours_best_same_dropout": replace(best, dropout=arguments.dropout),
    }
    if arguments.what == "pretraining":
        sides["ours_best"] = best  # our pre-training command's default is no dropout
    with ExitStack() as stack:
        calls = {name: start_side(stack, arguments, side, threads) for name, side in sides.items()}
        steps = {name: (lambda call=call: call("step")) for name, call in calls.items()}
        seconds = alternating_seconds(steps, arguments.repeats)
        memory = {name: call("memory") for name, call in calls.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians["stock"] / value for name, value in medians.items()}
    results = {
        "benchmark": arguments.what,
        "recipe": f"{arguments.recipe}@{arguments.size}",
        "ratio_same_precision": ratios["ours_same_precision"],
        "ratio_best": ratios.get("ours_best", ratios["ours_best_same_dropout"]),
        "ratio_best_same_dropout": ratios["ours_best_same_dropout"],
        "ratio_same_precision_and_allocator": medians["stock_same_allocator"] / medians["ours_same_precision"],
        "median_seconds": medians,
        "seconds": seconds,
        "peak_memory_mib": memory,
        "sides": {name: asdict(side) for name, side in sides.items()},
    }
    return finish(arguments, results)


@dataclass
class TrainingSpeedArguments(SpeedArguments):
    """Options of `tlm benchmark training`."""

    repeats: int = option(5, "Timed steps the authors' way, before and after the training.")
    corpus: str = option("wikipedia", "As in tlm pretrain.")
    schedule: str = option("tlm", "As in tlm pretrain.")
    num_texts: int | None = option(None, "Texts to train on, in place of the size's.")
    batch_size: int = option(32, "Texts per optimizer step.")
    max_steps: int = option(300, "Optimizer steps of the training.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")


def benchmark_training(arguments: TrainingSpeedArguments) -> Json:
    """Measure the real pre-training command between steps the authors' way, and estimate the paper's whole training.

    Loading, masking, logging, evaluation and checkpoints are part of it; the trained model is thrown away.

    Returns:
        `tokens_per_second`; `share_outside` of the time, evaluation and checkpoints apart, that is neither forward,
        backward nor optimizer; `step_seconds` and `stock_step_seconds` (medians) and their `ratio`; `hours` and
        `stock_hours` for the authors' 50 epochs of these texts.

    Raises:
        UserError: bad options.
    """
    check_range(arguments, 2 * WARM_STEPS, 10**6, "max_steps")
    check_range(arguments, 1, 2**20, "batch_size", "num_texts")
    build_recipe(arguments.recipe, arguments.size, stock=True)
    threads = arguments.set_threads()
    stock = StepArguments(recipe=arguments.recipe, size=arguments.size, batch_size=arguments.batch_size)
    options = {name: getattr(arguments, name) for name in ("corpus", "recipe", "size", "schedule", "num_texts")}
    options |= {name: getattr(arguments, name) for name in ("batch_size", "max_steps", "data_root")}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        call = start_side(stack, stock, Side(stock=True, dropout=stock.dropout), threads)
        stock_seconds = [measure_seconds(lambda: call("step")) for _ in range(arguments.repeats)]
        training = pretrain(**options, output_dir=f"{folder}/run", num_threads=threads, use_cpu=True)
        stock_seconds += [measure_seconds(lambda: call("step")) for _ in range(arguments.repeats)]
    speed, stock_step = training["speed"], statistics.median(stock_seconds)
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
        "stock_seconds": stock_seconds,
        "hours": steps * training["seconds_since_start_or_continuation"] / training["steps"] / 3600,
        "stock_hours": steps * stock_step / 3600,
        "steps": training["steps"],
        "texts": training["texts"],
        "speed": speed,
    }
    return finish(arguments, results)
