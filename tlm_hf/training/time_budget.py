"""`--time-budget 8h`: as many optimizer steps as fit, decided once from the pace of the first steps.

The rate of a schedule that decays to zero depends on the number of steps, so that number must be known before the first
one counts and must never change: a short trial on a copy of the model measures the pace, the decision is written into
the run's folder, and a continued run reads it there. The trial's weights are thrown away; the run is bit-equal to one
with `--max-steps` of the same number.
"""

import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..runs.atomic_files import write_json
from ..runs.output_folder import is_main_process
from .callbacks import CHECKPOINT, EVALUATION, WARM_STEPS, StepClock

if TYPE_CHECKING:
    from .trainer import RunTrainer

logger = logging.getLogger(__name__)
BUDGET_FILE = "time_budget.json"
TRIAL = ".trial"
"""Folder of the trial inside the run's; removed after it, and by the next trial where a kill left it."""
TIMED_STEPS, FEWEST_STEPS = 200, 5
"""Steps of the trial that are timed, after `WARM_STEPS`: at most, at least."""
TRIAL_SHARE = 0.02
"""Share of the budget after which the trial stops, once it has timed the fewest steps."""
RESERVE = 0.05
"""Share of the budget kept back: steps on a warm or shared machine are slower later than at first."""


def parse_duration(words: str, option: str = "--time-budget") -> float:
    """Seconds in `8h`, `90m`, `45s`, `1h30m` or `1.5h`; raises UserError for anything else, naming `option`."""
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", words.lower().replace(" ", ""))
    hours, minutes, rest = match.groups("0") if match is not None else "000"
    seconds = 3600 * float(hours) + 60 * float(minutes) + float(rest)
    if seconds <= 0:
        raise UserError(f"{option} is {words!r}: give hours, minutes and seconds, such as 8h, 90m or 1h30m.")
    return seconds


@dataclass(frozen=True)
class Pace:
    """Seconds of one optimizer step, one evaluation and one checkpoint; 0 for what a run does not do."""

    step: float
    evaluation: float = 0.0
    checkpoint: float = 0.0


def steps_within(seconds: float, pace: Pace, eval_steps: int, save_steps: int) -> int:
    """Most steps that fit into `seconds` with an evaluation and a checkpoint every so many, and at the end.

    Two evaluations come at the end: Trainer's, and that of the results. Raises UserError where no step fits.
    """

    def needed(steps: int) -> float:
        evaluations, checkpoints = -(-steps // eval_steps) + 1, -(-steps // save_steps) + 1
        return steps * pace.step + evaluations * pace.evaluation + checkpoints * pace.checkpoint

    if needed(1) > seconds:
        raise UserError(
            f"--time-budget leaves {max(seconds, 0):.0f} seconds for training, and one step with its evaluation and "
            f"checkpoint takes {needed(1):.0f}: give more time."
        )
    low, high = 1, max(2, int(seconds / pace.step) + 2)  # the needed time grows with the steps: halve the interval
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= seconds else (low, middle)
    return low


class TrialEnd(TrainerCallback):
    """Stops a trial when its clock has timed enough steps, and asks for one evaluation and one checkpoint.

    Args:
        clock: of the trial's trainer.
        seconds: after so many (of the slowest process) the trial stops, once it has timed `FEWEST_STEPS`.
    """

    def __init__(self, clock: StepClock, seconds: float) -> None:
        self.clock, self.limit = clock, seconds

    def on_optimizer_step(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Wait for the device: a step that was only queued has not been done."""
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for the end."""
        steps, elapsed = self.clock.steps, _slowest(self.clock.whole, args)
        if steps >= TIMED_STEPS or (steps >= FEWEST_STEPS and elapsed >= self.limit):
            control.should_evaluate = control.should_save = control.should_training_stop = True


def _slowest(seconds: float, args: TrainingArguments) -> float:
    """The largest of all processes' values, so that they decide alike."""
    if args.world_size == 1:
        return seconds
    value = torch.tensor(seconds, dtype=torch.float64, device="cpu" if args.device.type == "cpu" else args.device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return float(value)


def decide_steps(
    folder: str | Path,
    budget: float,
    build: "Callable[[int, str], RunTrainer]",
    *,
    eval_steps: int,
    save_steps: int,
    started: float,
) -> int:
    """Number of optimizer steps of a run with a time budget: as decided when it began, or from a trial now.

    Args:
        folder: the run's, which all processes share; the decision is kept in its `time_budget.json`.
        budget: seconds, from `parse_duration`.
        build: `(steps, output folder)` to a trainer like the run's, on a copy of its model.
        eval_steps: steps between evaluations.
        save_steps: steps between checkpoints.
        started: `time.perf_counter()` when the command began: loading and tokenizing count too.

    Raises:
        UserError: not even one step fits.
        KeyboardInterrupt: interrupted; nothing is decided.
    """
    record = Path(folder) / BUDGET_FILE
    if record.is_file():
        return int(json.loads(record.read_text(encoding="utf-8"))["steps"])
    trial = Path(folder) / TRIAL
    if is_main_process():
        shutil.rmtree(trial, ignore_errors=True)
    trainer = build(WARM_STEPS + TIMED_STEPS, str(trial))
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"  # `TrialEnd` asks for one of each
    trainer.args.load_best_model_at_end = False
    trainer.add_callback(TrialEnd(trainer.clock, TRIAL_SHARE * budget))
    trainer.remove_callback(PrinterCallback)
    trainer.accelerator.wait_for_everyone()
    try:
        trainer.train()
    finally:
        if is_main_process():
            with contextlib.suppress(OSError):
                shutil.rmtree(trial)
    clock = trainer.clock
    measured = (clock.whole / clock.steps, clock.apart_seconds[EVALUATION], clock.apart_seconds[CHECKPOINT])
    pace = Pace(*(_slowest(seconds, trainer.args) for seconds in measured))
    spent = _slowest(time.perf_counter() - started, trainer.args)
    steps = steps_within(budget * (1 - RESERVE) - spent, pace, eval_steps, save_steps)
    if is_main_process():
        decided = {"steps": steps, "budget_seconds": budget, "spent_seconds": spent}
        write_json(record, decided | {f"{name}_seconds": value for name, value in asdict(pace).items()})
        logger.info(f"Time for {steps:,} steps of {pace.step:.3g} s, after {spent:.0f} s of preparation.")
    trainer.accelerator.wait_for_everyone()
    return steps
