"""What a training measures and shows, and when it stops; a run with these callbacks is bit-equal to one without."""

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

import numpy as np
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState, TrainingArguments

from ..errors import Terminated
from ..runs.checkpoints import STATE_FILE
from ..runs.worker_pool import write_progress

logger = logging.getLogger(__name__)
WARM_STEPS = 3  # first ones of a process, which are not timed: memory is allocated and kernels are chosen then
EVALUATION, CHECKPOINT = "evaluation", "checkpoints"


class StepClock(TrainerCallback):
    """Measures the seconds of training steps, without what `apart` books: evaluation and checkpoints."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # of each timed step
        self.apart_seconds = {EVALUATION: 0.0, CHECKPOINT: 0.0}
        self._cpu_seconds, self._seen = 0.0, 0
        self._tokens: Any = 0
        self._start = np.zeros(2)  # when the step began, as `_now`, and later by what was booked apart

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._seen = 0

    def count(self, inputs: dict[str, Any]) -> None:
        """Count the tokens of a pass, padding left out."""
        if self._seen >= WARM_STEPS and "attention_mask" in inputs:
            self._tokens = self._tokens + inputs["attention_mask"].sum()

    @contextlib.contextmanager
    def apart(self, kind: str) -> Iterator[None]:
        """Leave the time of the block out and book it under `kind`."""
        start, before = _now(), self._start.copy()
        try:
            yield
        finally:
            inner = self._start - before  # of an evaluation within one, of several sets
            spent = _now() - start - inner
            self.apart_seconds[kind] += float(spent[0])
            self._start = self._start + spent

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = _now()
        if self._seen >= WARM_STEPS:
            elapsed, cpu = (now - self._start).tolist()
            self.seconds.append(elapsed)
            self._cpu_seconds += cpu
        self._seen += 1
        self._start = now

    def summary(self) -> dict[str, Any]:
        """What this process measured since it started or continued; `{}` before four steps."""
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


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


class LogRows(TrainerCallback):
    """Logs one aligned row of numbers for each log line: step, epoch, losses, rate, tokens a second, time left."""

    COLUMNS = {"epoch": ".2f", "loss": ".4f", "eval_loss": ".4f", "eval_accuracy": ".4f", "learning_rate": ".2e"}

    def __init__(self, trainer: Any) -> None:
        """Put rows in place of the dictionaries that a `RunTrainer` prints; its progress bar stays."""
        self.clock, self._titled = trainer.clock, False
        self.columns = [name for name in self.COLUMNS if name != "eval_accuracy" or trainer.compute_metrics]
        trainer.remove_callback(PrinterCallback)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback):
                callback.on_log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        trainer.add_callback(self)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or not {"loss", "eval_loss"} & logs.keys():
            return
        numbers = [format(logs[name], self.COLUMNS[name]) if name in logs else "" for name in self.columns]
        cells = [f"{state.global_step:,}", *numbers]
        if "loss" in logs and (speed := self.clock.summary()):
            seconds = int((state.max_steps - state.global_step) * speed["seconds"] / speed["steps"])
            cells += [f"{speed['tokens_per_second'] * args.world_size:,.0f}", str(datetime.timedelta(seconds=seconds))]
        titles = ["step", *(name if "loss" in name else name.split("_")[-1] for name in self.columns)]
        for row in [cells] if self._titled else [[*titles, "tokens/s", "left"], cells]:
            logger.info("".join(f"{cell:>10}" for cell in row).rstrip())
        self._titled = True


class ProgressFile(TrainerCallback):
    """Notes in the run's folder, at most once a second, share of steps done, loss and accuracy, for a shared bar."""

    _last = 0.0  # when it was noted

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        if args.should_save and time.monotonic() - self._last >= 1:
            self._last = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk: the next checkpoint says so and stops
                last = {name: value for row in state.log_history[-3:] for name, value in row.items()}
                names = (("loss", "loss"), ("eval_accuracy", "accuracy"))
                note = " ".join(f"{word} {last[name]:.3f}" for name, word in names if name in last)
                write_progress(Path(args.output_dir), state.global_step / max(1, state.max_steps), note)


class Patience(TrainerCallback):
    """Ends a training after so many epochs without a better one, which a continued run knows from its checkpoint."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def end_again(self, checkpoint: Path, args: TrainingArguments) -> None:
        """Let a training that it had ended train no further from its last checkpoint."""
        state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        if self._is_over(state):
            args.max_steps = state.global_step

    def _is_over(self, state: TrainerState) -> bool:
        per_step = (state.epoch or 0.0) / max(1, state.global_step)
        since = (state.global_step - (state.best_global_step or 0)) * per_step  # epochs
        return _epoch_is_whole(state) and since > self.epochs - 0.5  # within one nothing was evaluated

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        control.should_training_stop |= self._is_over(state)


class Interrupt(TrainerCallback):
    """SIGINT and SIGTERM finish the step, save a checkpoint and stop; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        # Several processes would stop after different steps and wait for each other.
        if args.world_size == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            logger.warning("Interrupted: saving a checkpoint after this step; interrupt again to stop at once.")
        self.received = number

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        if self.received is not None and not control.should_training_stop:
            # A whole epoch is saved at its end, after its evaluation, which a continued run would not make up for.
            control.should_save = args.save_strategy != "epoch" or not _epoch_is_whole(state)
            control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        """Within an epoch nothing is evaluated: the best epoch is chosen among whole ones, interrupted or not."""
        if self.received is not None and not _epoch_is_whole(state):
            control.should_evaluate = control.should_save = False

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """After the block restore the handlers; raise KeyboardInterrupt, after SIGTERM Terminated, if one came."""
        try:
            yield
        finally:
            while self._before:
                signal.signal(*self._before.popitem())
        if self.received is not None:
            raise Terminated if self.received == signal.SIGTERM else KeyboardInterrupt


def _epoch_is_whole(state: TrainerState) -> bool:
    return state.epoch is not None and abs(state.epoch - round(state.epoch)) < 1e-6
