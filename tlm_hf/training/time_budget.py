"""`--time-budget 8h`: as many steps (of a committee: passes and members) as fit, decided once by a trial."""

import logging
import math
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..runs.atomic_files import read_json, write_json
from ..runs.output_folder import is_main_process
from .callbacks import WARM_STEPS

logger = logging.getLogger(__name__)
BUDGET_FILE, TRIAL = "time_budget.json", ".trial"
TIMED_STEPS = 10
TRIAL_STEPS = WARM_STEPS + TIMED_STEPS
LEAST = 0.25  # share of the passes below which members are left out before more passes are
RESERVE = 0.1  # of the budget, for checkpoints, and since steps on a warm or shared machine are slower later on


def parse_duration(words: str) -> float:
    """Seconds in `8h`, `90m`, `45s`, `1h30m` or `1.5h`; raises UserError for anything else."""
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", words.lower().replace(" ", ""))
    hours, minutes, rest = match.groups("0") if match is not None else "000"
    seconds = 3600 * float(hours) + 60 * float(minutes) + float(rest)
    if seconds <= 0:
        raise UserError(f"--time-budget is {words!r}: give hours, minutes and seconds, such as 8h, 90m or 1h30m.")
    return seconds


def decide_steps(folder: Path, budget: float, build: Callable[[int, str], Any], started: float) -> int:
    """Number of steps of the `RunTrainer` that `build` makes, that fit into `budget` seconds from `started` on."""
    record, trial = folder / BUDGET_FILE, folder / TRIAL
    if record.is_file():
        return int(read_json(record)["steps"])
    trainer = build(TRIAL_STEPS, str(trial))
    eval_steps, trainer.args.eval_steps = int(trainer.args.eval_steps or 1), TRIAL_STEPS
    trainer.args.save_strategy = "no"  # type: ignore[assignment]
    trainer.train()
    if is_main_process():
        shutil.rmtree(trial, ignore_errors=True)
    speed = trainer.clock.summary()
    measured = [speed["seconds"] / speed["steps"], speed["seconds_apart"]["evaluation"], time.perf_counter() - started]
    # The largest of all processes' values, so that they decide alike.
    values = trainer.accelerator.gather(torch.tensor([measured], device=trainer.args.device))
    step, evaluation, spent = values.amax(dim=0).tolist()
    left = budget * (1 - RESERVE) - spent - 2 * evaluation  # at the end, and for the results
    steps = int(left / (step + evaluation / eval_steps))
    if steps < 1:
        words = f"--time-budget leaves {max(left, 0):.0f} seconds for steps, and each takes {step:.3g}"
        raise UserError(f"{words}: give more time.")
    if is_main_process():
        write_json(record, {"steps": steps, "budget_seconds": budget, "step_seconds": step})
        logger.info(f"Time for {steps:,} steps of {step:.3g} s, after {spent:.0f} s of preparation.")
    trainer.accelerator.wait_for_everyone()
    return steps


def fit_members(
    left: float, around: float, one_pass: float, passes: float, members: int, workers: int
) -> tuple[int, float]:
    """How many of the members, and of the passes over the rows, fit into `left` seconds, `workers` side by side.

    A member takes `around` seconds besides its passes (process, encoder, scores), and `one_pass` for each of these.
    """
    for rounds in range(math.ceil(members / workers), 0, -1):
        fitting = min(passes, ((1 - RESERVE) * left / rounds - around) / one_pass)
        if fitting >= LEAST * passes:
            break
    if fitting < passes:  # whole passes, or tenths of one
        fitting = math.floor(fitting) if fitting >= 1 else min(passes, max(0.1, math.floor(10 * fitting) / 10))
    return min(members, rounds * workers), fitting
