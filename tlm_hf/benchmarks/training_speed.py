"""Speed of the real training command: tokens a second, time outside its steps, share of the machine's peak.

`training.pretrain.pretrain` itself runs, as `tlm pretrain` runs it, on real text: loading, masking, logging, evaluation
and checkpoints included. Every so many steps it waits while a process beside it takes one step the authors' way (stock
BERT with labels, float32, `torch.optim.AdamW` with its defaults, dropout 0.1, texts of full length), so that both meet
the same state of the machine.
"""

import os
import statistics
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError, check_range
from ..flops import cheapest_path, masked_lm_multiply_adds
from ..recipes import build_config
from ..runs.atomic_files import write_json
from ..runs.output_folder import RUN_FILE
from ..runs.provenance import portable, provenance
from ..training.callbacks import OTHER, WARM_STEPS, StepClock
from ..training.pretrain import pretrain
from ..training.pretrain_options import PretrainArguments, check_arguments, choose_schedule
from ..training.processes import stays_on_cpu
from ..training.trainer import RunTrainer
from .speed import WARMUP, BenchmarkArguments, Side, running_side

PEAK_SIZE, SMALL_SIZE, PEAK_REPEATS = 2048, 512, 10
THEIR_DROPOUT, THEIR_EPOCHS = 0.1, 50
DEFAULT_BUDGET = "30m"


@dataclass
class TrainingBenchmarkArguments(PretrainArguments):
    """Options of `tlm benchmark training`: those of `tlm pretrain`, and some of its own."""

    output_dir: str = field(
        default="outputs/benchmark-training", metadata={"help": "Folder of the training; must be a new one."}
    )
    size: str = field(default="paper", metadata={"help": "smoke, quickstart, laptop or paper."})
    what: str = field(default="training", metadata={"help": "training."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})
    stock_steps: int = field(default=15, metadata={"help": "Timed steps the authors' way; 0 for none."})
    epochs_to_estimate: int = field(default=THEIR_EPOCHS, metadata={"help": "Passes of the training to estimate."})


def measure_peak(bf16: bool) -> float:
    """FLOP/s of a product of two square matrices of size 2048: median of ten, after two that are not counted.

    Of size 512 where the larger ones would take more than a second each, as in bfloat16 without AVX-512.
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(PEAK_SIZE, PEAK_SIZE, generator=generator).to(dtype) for _ in range(2))
    small = [each[:SMALL_SIZE, :SMALL_SIZE].contiguous() for each in (left, right)]
    start = time.perf_counter()
    torch.mm(*small)
    if (time.perf_counter() - start) * (PEAK_SIZE / SMALL_SIZE) ** 3 > 1:
        left, right = small
    seconds = []
    for turn in range(WARMUP + PEAK_REPEATS):
        start = time.perf_counter()
        torch.mm(left, right)
        if turn >= WARMUP:
            seconds.append(time.perf_counter() - start)
    return 2 * len(left) ** 3 / statistics.median(seconds)


def product_flop(clock: StepClock, trainer: RunTrainer) -> float:
    """FLOP in matrix products of the counted passes, forward and backward, padding included (`flops`).

    The labelled tokens are spread evenly over the texts, and the last layer takes the path of fewest multiply-adds.
    """
    config, labelled = trainer.model.config, clock.summary()["labelled_tokens_per_text"]
    total = 0.0
    for (rows, length), count in clock.passes.items():
        path = cheapest_path(config, length, round(labelled), training=True)
        total += 2 * count * rows * masked_lm_multiply_adds(config, length, round(labelled), path=path)
    return total


class StockBetween(TrainerCallback):
    """Let a process beside the training take a step every so often, while the training waits.

    Args:
        ask: sends the process a message, from `speed.running_side`.
        clock: the training's, which leaves the wait out.
        turns: steps to take in the whole training, those that are not counted included.
    """

    def __init__(self, ask: Any, clock: StepClock, turns: int) -> None:
        self.ask, self.clock, self.turns = ask, clock, turns
        self.seconds: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Wait for a step at equal distances."""
        if control.should_training_stop and state.global_step < state.max_steps:
            return  # interrupted: the checkpoint comes first
        if len(self.seconds) < self.turns and state.global_step * self.turns >= state.max_steps * len(self.seconds):
            with self.clock.apart(OTHER):
                self.seconds.append(self.ask("step"))


def _refuse(arguments: TrainingBenchmarkArguments) -> None:
    """Refuse what cannot be measured before any work.

    Raises:
        UserError: one sentence that names the option.
    """
    config = build_config(arguments.recipe, arguments.size, max_length=arguments.max_length)
    if config.has_convolution and arguments.stock_steps:
        raise UserError(
            f"The recipe {arguments.recipe} has a convolution front-end, which stock BERT has not: add --stock-steps 0."
        )
    if arguments.members is not None:
        raise UserError("One training is measured at a time: leave --members out, or take `tlm benchmark members`.")
    shape = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    if arguments.stock_steps and any(getattr(arguments, name) is not None for name in shape):
        raise UserError("The steps beside the training have the recipe's own shape: add --stock-steps 0 for another.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or not stays_on_cpu(arguments.use_cpu):
        raise UserError("The benchmark measures one process on a CPU: start it without a launcher, with --use-cpu.")
    fewest = max(2 * WARM_STEPS, WARMUP + arguments.stock_steps)
    if 0 <= arguments.max_steps < fewest:
        raise UserError(f"--max-steps {arguments.max_steps} is too short to measure: give at least {fewest}.")
    if (Path(arguments.output_dir) / RUN_FILE).exists():
        raise UserError(f"There is a training in {arguments.output_dir}: choose a new --output-dir to measure one.")


def benchmark_training(arguments: TrainingBenchmarkArguments) -> dict[str, Any]:
    """Measure the real pre-training command beside steps the authors' way, and estimate the paper's whole training.

    Without `--max-steps` or `--time-budget` the training takes 30 minutes (steps the authors' way come on top).

    Returns:
        The results: `tokens_per_second`, `share_outside` (of the time, evaluation and checkpoints apart, that is
        neither forward, backward nor optimizer), `product_rate` (FLOP/s of the training in matrix products),
        `peak_rate` (FLOP/s of a product of two matrices of size 2048, the better of one before and one after),
        `share_of_peak`, `step_seconds` and `stock_step_seconds` (medians), `hours` and `stock_hours` for the paper's
        number of epochs.

    Raises:
        UserError: bad options, or an output folder that is not new.
    """
    check_range(arguments, 0, 10**6, "stock_steps")
    check_range(arguments, 1, 10**6, "epochs_to_estimate")
    _refuse(arguments)
    options = PretrainArguments(**{entry.name: getattr(arguments, entry.name) for entry in fields(PretrainArguments)})
    if options.max_steps < 0 and options.time_budget is None:
        options.time_budget = DEFAULT_BUDGET
    check_arguments(options, choose_schedule(options))
    if arguments.json is not None:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)  # after the refusals, before the work
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    threads = torch.get_num_threads()
    trainers: list[RunTrainer] = []
    between: list[StockBetween] = []
    peaks: list[float] = []

    def observe(trainer: RunTrainer) -> None:
        trainers.append(trainer)
        peaks.append(measure_peak(trainer.args.bf16))
        if ask is not None:
            between.append(StockBetween(ask, trainer.clock, WARMUP + arguments.stock_steps))
            trainer.add_callback(between[0])

    stock = BenchmarkArguments(
        what="pretraining",
        recipe=arguments.recipe,
        size=arguments.size,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
    )
    beside = running_side(stock, Side(stock=True, dropout=THEIR_DROPOUT), threads)
    with beside if arguments.stock_steps else nullcontext() as ask:
        found = pretrain(options, observe)
    (trainer,) = trainers
    peaks.append(measure_peak(trainer.args.bf16))
    results = _sum_up(arguments, found, trainer, between[0].seconds[WARMUP:] if between else [], peaks)
    if arguments.json is not None:
        write_json(Path(arguments.json), results)
    return results


def _sum_up(
    arguments: TrainingBenchmarkArguments,
    found: dict[str, Any],
    trainer: RunTrainer,
    stock: list[float],
    peaks: list[float],
) -> dict[str, Any]:
    speed = trainer.clock.summary()
    rate, peak = product_flop(trainer.clock, trainer) / speed["seconds"], max(peaks)
    training = found["seconds_since_start_or_continuation"] - speed["seconds_apart"][OTHER]
    steps = arguments.epochs_to_estimate * found["texts"] / arguments.batch_size
    stock_step = statistics.median(stock) if stock else None
    return {
        "benchmark": "training",
        "recipe": f"{arguments.recipe}@{arguments.size}",
        "schedule": arguments.schedule,
        "tokens_per_second": speed["tokens_per_second"],
        "share_outside": speed["share_outside"],
        "share_of_peak": rate / peak,
        "product_rate": rate,
        "peak_rate": peak,
        "peak_rates_before_and_after": peaks,
        "precision": "bfloat16" if trainer.args.bf16 else "float32",
        "step_seconds": speed["median_step_seconds"],
        "stock_step_seconds": stock_step,
        "ratio": stock_step / speed["median_step_seconds"] if stock_step else None,
        "stock_seconds": stock,
        "estimate": {"texts": found["texts"], "epochs": arguments.epochs_to_estimate, "steps": steps},
        "hours": steps * training / found["steps"] / 3600,
        "stock_hours": steps * stock_step / 3600 if stock_step else None,
        "training_seconds": training,
        "steps": found["steps"],
        "padding_share": found["padding_share"],
        "held_out": found["held_out"],
        "speed": speed,
        "settings": portable({key: value for key, value in asdict(arguments).items() if key != "json"}),
        "provenance": provenance(),
    }
