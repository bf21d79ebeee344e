"""`--time-budget 8h`: as many optimizer steps as fit, decided once from the pace of the first steps.

The learning rate depends on the number of steps, which must therefore be known before the first one and never change:
a short trial on a copy of the model measures the pace, and the run's folder keeps the decision. The run is bit-equal to
one with `--max-steps` of the same number.
"""

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..runs.atomic_files import read_json, write_json
from ..runs.output_folder import is_main_process
from .callbacks import CHECKPOINT, EVALUATION, WARM_STEPS

if TYPE_CHECKING:
    from .trainer import RunTrainer

logger = logging.getLogger(__name__)
BUDGET_FILE = "time_budget.json"
TRIAL = ".trial"
"""Folder of the trial inside the run's."""
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


class TrialEnd(TrainerCallback):
    """Stops a trial after `TIMED_STEPS`, or after `limit` seconds, with one evaluation and one checkpoint."""

    def __init__(self, trainer: "RunTrainer", limit: float) -> None:
        self.trainer, self.limit = trainer, limit

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for the end."""
        if args.device.type == "cuda":  # a step that was only queued has not been done
            torch.cuda.synchronize(args.device)
        seconds = self.trainer.clock.seconds
        (elapsed,) = _slowest(self.trainer, sum(seconds))
        if len(seconds) >= TIMED_STEPS or (len(seconds) >= FEWEST_STEPS and elapsed >= self.limit):
            control.should_evaluate = control.should_save = control.should_training_stop = True


def _slowest(trainer: "RunTrainer", *seconds: float) -> list[float]:
    """The largest of all processes' values, so that they decide alike."""
    values = trainer.accelerator.gather(torch.tensor([seconds], device=trainer.args.device))
    return [float(value) for value in values.amax(dim=0)]


def decide_steps(
    folder: Path,
    budget: float,
    build: "Callable[[int, str], RunTrainer]",
    *,
    eval_steps: int,
    save_steps: int,
    started: float,
) -> int:
    """Number of optimizer steps of a run with a time budget: as decided when it began, or from a trial now.

    Args:
        folder: the run's, whose `time_budget.json` keeps the decision.
        budget: seconds.
        build: `(steps, output folder)` to a trainer like the run's, on a copy of its model.
        eval_steps: steps between evaluations.
        save_steps: steps between checkpoints.
        started: `time.perf_counter()` when the command began: loading and tokenizing count too.

    Raises:
        UserError: not even one step fits.
    """
    record, trial = folder / BUDGET_FILE, folder / TRIAL
    if record.is_file():
        return int(read_json(record)["steps"])
    trainer = build(WARM_STEPS + TIMED_STEPS, str(trial))
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"  # `TrialEnd` asks for one of each
    trainer.add_callback(TrialEnd(trainer, TRIAL_SHARE * budget))
    try:
        trainer.train()
    finally:
        if is_main_process():
            with contextlib.suppress(OSError):
                shutil.rmtree(trial)
    clock = trainer.clock
    measured = (
        sum(clock.seconds) / len(clock.seconds),
        *(clock.apart_seconds[kind] for kind in (EVALUATION, CHECKPOINT)),
    )
    step, evaluation, checkpoint, spent = _slowest(trainer, *measured, time.perf_counter() - started)
    # Evaluations and checkpoints also come at the end, an evaluation once more for the results.
    left = budget * (1 - RESERVE) - spent - 2 * (evaluation + checkpoint)
    steps = int(left / (step + evaluation / eval_steps + checkpoint / save_steps))
    if steps < 1:
        raise UserError(
            f"--time-budget leaves {max(left, 0):.0f} seconds for steps, and each takes {step:.3g}: give more time."
        )
    if is_main_process():
        decided = {"steps": steps, "budget_seconds": budget, "spent_seconds": spent, "step_seconds": step}
        write_json(record, decided | {"evaluation_seconds": evaluation, "checkpoint_seconds": checkpoint})
        logger.info(f"Time for {steps:,} steps of {step:.3g} s, after {spent:.0f} s of preparation.")
    trainer.accelerator.wait_for_everyone()
    return steps
