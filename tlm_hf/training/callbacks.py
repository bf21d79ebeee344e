"""What a training shows and how it stops: a clock, rows of numbers, progress for other processes, and interrupts.

All are TrainerCallbacks that change no weight and draw no random number of torch's, so a run with them is bit-equal to
one without.
"""

import contextlib
import datetime
import logging
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..errors import Terminated
from ..runs.worker_pool import write_progress

logger = logging.getLogger(__name__)
WARM_STEPS = 3
"""First steps of a process, which are not timed: memory is allocated and kernels are chosen then."""
EVALUATION, CHECKPOINT = "evaluation", "checkpoints"


class StepClock(TrainerCallback):
    """Measures the seconds of training steps.

    From the first forward pass to the end of the optimizer's work is *inside* a step; loading and masking texts and
    logging are *outside*. What `apart` books (evaluation, checkpoints) is neither. On an accelerator, where kernels run
    asynchronously, only the whole is meaningful.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        """Of each timed step."""
        self._cpu_seconds = self._cpu_apart = self._cpu_step_end = 0.0
        self.apart_seconds = {EVALUATION: 0.0, CHECKPOINT: 0.0}
        self._inside = self._apart = 0.0
        self._tokens: torch.Tensor | int = 0
        self._seen = 0
        self._pass_start: float | None = None
        self._step_end: float | None = None

    def start_pass(self, inputs: dict[str, Any]) -> None:
        """A forward and backward pass of `inputs`, as the collator made them, begins."""
        if self._pass_start is None:
            self._pass_start = time.perf_counter()
        if self._seen >= WARM_STEPS and "attention_mask" in inputs:
            self._tokens = self._tokens + inputs["attention_mask"].sum()

    @contextlib.contextmanager
    def apart(self, kind: str) -> Iterator[None]:
        """Leave the time of the block out and book it under `kind`."""
        start, cpu_start = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._apart += seconds
            self._cpu_apart += time.process_time() - cpu_start
            self.apart_seconds[kind] += seconds

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._seen, self._step_end, self._pass_start = 0, None, None

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The inside of a step ends."""
        if self._seen >= WARM_STEPS and self._pass_start is not None:
            self._inside += time.perf_counter() - self._pass_start
        self._pass_start = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Book the step that ends here."""
        now, cpu_now = time.perf_counter(), time.process_time()
        if self._seen >= WARM_STEPS and self._step_end is not None:
            self.seconds.append(now - self._step_end - self._apart)
            self._cpu_seconds += cpu_now - self._cpu_step_end - self._cpu_apart
        self._seen += 1
        self._step_end, self._apart, self._cpu_step_end, self._cpu_apart = now, 0.0, cpu_now, 0.0

    def summary(self) -> dict[str, Any]:
        """What this process measured since it started or continued the run; `{}` before four steps.

        `cpu_seconds` are this process's, summed over its threads. `tokens_per_second` leaves padding out.
        """
        if not self.seconds:
            return {}
        whole = sum(self.seconds)
        return {
            "steps": len(self.seconds),
            "seconds": whole,
            "cpu_seconds": self._cpu_seconds,
            "median_step_seconds": statistics.median(self.seconds),
            "share_outside": max(0.0, 1 - self._inside / whole),
            "tokens_per_second": int(self._tokens) / whole,
            "seconds_apart": dict(self.apart_seconds),
        }


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
        cells = (
            f"{format(logs[name], form) if name in logs else '':>{width}}" for _, name, width, form in self.columns
        )
        logger.info(f"{state.global_step:>9,}{''.join(cells)}{pace:>11}{left:>10}".rstrip())


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

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look at the epoch of the best checkpoint, after that of this epoch is written."""
        per_step = (state.epoch or 0.0) / max(1, state.global_step)
        waited = (state.global_step - (state.best_global_step or 0)) * per_step
        control.should_training_stop |= waited > self.epochs - 0.5


class Interrupt(TrainerCallback):
    """SIGINT and SIGTERM finish the step, save a checkpoint and stop; a second SIGINT ends the process at once.

    Only in the main thread of a single process: several processes would stop after different steps and wait for each
    other for ever, so they end at once and continue from the last checkpoint.
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
