"""What a training shows, when it stops, and snapshots of it; a run with these callbacks is bit-equal to one without.

Exact resume is in `trainer.py` (RunTrainer) and `runs/checkpoints.py`.
"""

import contextlib
import datetime
import logging
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..errors import Terminated, UserError
from ..runs.atomic_files import Json, whole_folder, write_json
from ..runs.checkpoints import writing
from ..runs.output_folder import RESULTS_FILE, Run
from ..runs.worker_pool import write_progress

logger = logging.getLogger(__name__)
WARM_STEPS = 3
"""First steps of a process, which are not timed: memory is allocated and kernels are chosen then."""
EVALUATION, CHECKPOINT = "evaluation", "checkpoints"


class StepClock(TrainerCallback):
    """Measures the seconds of training steps, without what `apart` books: evaluation and checkpoints."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # of each timed step
        self.apart_seconds = {EVALUATION: 0.0, CHECKPOINT: 0.0}
        self._cpu_seconds, self._seen = 0.0, 0
        self._tokens: Any = 0
        self._start = (0.0, 0.0)  # when the step began, as `_now` and later by what was booked apart

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._seen = 0

    def count(self, inputs: dict[str, Any]) -> None:
        """Count the tokens of a pass, padding left out."""
        if self._seen >= WARM_STEPS and "attention_mask" in inputs:
            self._tokens = self._tokens + inputs["attention_mask"].sum()

    @contextlib.contextmanager
    def apart(self, kind: str) -> Iterator[None]:
        """Leave the time of the block out and book it under `kind`."""
        start = _now()
        try:
            yield
        finally:
            spent = [now - before for now, before in zip(_now(), start, strict=True)]
            self.apart_seconds[kind] += spent[0]
            self._start = (self._start[0] + spent[0], self._start[1] + spent[1])

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Book the step that ends here."""
        now = _now()
        if self._seen >= WARM_STEPS:
            self.seconds.append(now[0] - self._start[0])
            self._cpu_seconds += now[1] - self._start[1]
        self._seen += 1
        self._start = now

    def summary(self) -> dict[str, Any]:
        """What this process measured since it started or continued, padding left out; `{}` before four steps."""
        if not self.seconds:
            return {}
        return {
            "steps": len(self.seconds),
            "seconds": sum(self.seconds),
            "cpu_seconds": self._cpu_seconds,
            "median_step_seconds": statistics.median(self.seconds),
            "tokens_per_second": int(self._tokens) / sum(self.seconds),
            "seconds_apart": dict(self.apart_seconds),
        }


def _now() -> tuple[float, float]:
    """Seconds on the wall's clock and on the process's."""
    return time.perf_counter(), time.process_time()


class LogRows(TrainerCallback):
    """Logs one aligned row of numbers for each log line: step, epoch, losses, rate, tokens a second, time left."""

    COLUMNS = (
        ("epoch", "epoch", 8, ".2f"),
        ("loss", "loss", 9, ".4f"),
        ("eval loss", "eval_loss", 11, ".4f"),
        ("accuracy", "eval_accuracy", 10, ".4f"),
        ("rate", "learning_rate", 10, ".2e"),
    )

    def __init__(self, clock: StepClock, accuracy: bool) -> None:
        self.clock, self._titled = clock, False
        self.columns = [column for column in self.COLUMNS if accuracy or column[0] != "accuracy"]

    @classmethod
    def install(cls, trainer: Any, *, accuracy: bool = False) -> None:
        """Put rows in place of the dictionaries that a `RunTrainer` prints; its progress bar stays."""
        trainer.remove_callback(PrinterCallback)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback):
                callback.on_log = lambda *_, **__: None
        trainer.add_callback(cls(trainer.clock, accuracy))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Log the row, and before the first one the titles."""
        if not state.is_world_process_zero or not logs or not {"loss", "eval_loss"} & logs.keys():
            return
        speed, pace, left = self.clock.summary() if "loss" in logs else {}, "", ""
        if speed:
            pace = f"{speed['tokens_per_second'] * args.world_size:,.0f}"
            seconds = int((state.max_steps - state.global_step) * speed["seconds"] / speed["steps"])
            left = str(datetime.timedelta(seconds=seconds))
        if not self._titled:
            titles = "".join(f"{title:>{width}}" for title, _, width, _ in self.columns)
            logger.info(f"{'step':>9}{titles}{'tokens/s':>11}{'left':>10}")
            self._titled = True
        row = f"{state.global_step:>9,}"
        for _title, name, width, form in self.columns:
            row += f"{format(logs[name], form) if name in logs else '':>{width}}"
        logger.info(f"{row}{pace:>11}{left:>10}".rstrip())


class ProgressFile(TrainerCallback):
    """Notes the share of steps done in the run's folder, at most once a second, for whoever waits for several runs."""

    def __init__(self) -> None:
        self._last = 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the share."""
        now = time.monotonic()
        if args.should_save and now - self._last >= 1:
            self._last = now
            with contextlib.suppress(OSError):  # a full disk: the next checkpoint says so and stops
                write_progress(Path(args.output_dir), state.global_step / max(1, state.max_steps))


class Patience(TrainerCallback):
    """Ends a training after so many epochs without a better one, which a continued run knows from its checkpoint."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def is_over(self, state: TrainerState) -> bool:
        """Whether the best checkpoint is that many epochs old."""
        per_step = (state.epoch or 0.0) / max(1, state.global_step)
        return (state.global_step - (state.best_global_step or 0)) * per_step > self.epochs - 0.5

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look at the epoch of the best checkpoint, after that of this epoch is written."""
        control.should_training_stop |= self.is_over(state)


class Interrupt(TrainerCallback):
    """SIGINT and SIGTERM finish the step, save a checkpoint and stop; a second SIGINT ends the process at once.

    Only in the main thread of a single process: several would stop after different steps and wait for each other.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Take the signals over."""
        if args.world_size == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            logger.warning("Interrupted: saving a checkpoint after this step; interrupt again to stop at once.")
        self.received = number

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint and the end of training."""
        if self.received is not None and not control.should_training_stop:
            # A whole epoch is saved at its end, after its evaluation, which a continued run would not make up for.
            control.should_save = args.save_strategy != "epoch" or not self._epoch_is_whole(state)
            control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Within an epoch nothing is evaluated: the best epoch is chosen among whole ones, interrupted or not."""
        if self.received is not None and not self._epoch_is_whole(state):
            control.should_evaluate = control.should_save = False

    @staticmethod
    def _epoch_is_whole(state: TrainerState) -> bool:
        return state.epoch is not None and abs(state.epoch - round(state.epoch)) < 1e-6

    def give_back(self) -> None:
        """Restore the handlers from before the training."""
        while self._before:
            signal.signal(*self._before.popitem())

    def raise_if_received(self) -> None:
        """Raise KeyboardInterrupt, or Terminated after SIGTERM, unless nothing was received."""
        if self.received is not None:
            raise Terminated if self.received == signal.SIGTERM else KeyboardInterrupt


class Snapshots(TrainerCallback):
    """`--snapshot-steps N ...`: writes the encoder after N steps to `OUTPUT/step-N`, like that of a finished run.

    Nothing resumes from it. It is written before the checkpoint of its step, so a killed run passes that step again.
    `describe` gives the results after a number of steps, in every process.
    """

    def __init__(self, run: Run, trainer: Any, steps: Sequence[int], describe: Callable[[int], Json]) -> None:
        self.run, self.trainer, self.steps, self.describe = run, trainer, frozenset(steps), describe

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Write the snapshot of this step if one was asked for and none is there from before a kill."""
        step, folder = state.global_step, snapshot_folder(self.run.folder, state.global_step)
        if step not in self.steps:
            return
        control.should_save = True
        if folder.is_dir():
            return
        with self.trainer.clock.apart(CHECKPOINT):
            self.trainer.check_numbers()
            results = self.run.describe({**self.describe(step), "snapshot": step})
            results["settings"]["snapshot_steps"] = [step]  # the command that makes this folder
            self.trainer.accelerator.wait_for_everyone()  # none may look for the folder after the first has made it
            if args.should_save:
                with writing(f"The snapshot of step {step}", self.run.folder), whole_folder(folder) as draft:
                    save_encoder(self.trainer, draft)
                    write_json(draft / RESULTS_FILE, results)
            self.trainer.accelerator.wait_for_everyone()


def snapshot_folder(run: Path, step: int) -> Path:
    """Where the snapshot of a step is in a run's folder."""
    return run / f"step-{step}"


def check_not_missed(run: Path, steps: Sequence[int], done: int | None = None) -> None:
    """Raise UserError for a snapshot of a step that the run passed without it; `done` is None for a finished run."""
    for step in steps:
        if (done is None or step <= done) and not snapshot_folder(run, step).is_dir():
            where = "has finished" if done is None else f"is at step {done}"
            raise UserError(
                f"The run in {run} {where} and has no snapshot of step {step}: leave it out of --snapshot-steps, or "
                "choose another --output-dir."
            )


def save_encoder(trainer: Trainer, folder: Path) -> None:
    """Write a trainer's model as it is now, and its tokenizer, into a folder."""
    trainer.model.save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
