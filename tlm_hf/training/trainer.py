"""What we add to transformers.Trainer: checkpoints that are whole or absent, SIGINT that saves, a fixed-mask loss."""

import importlib.util
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..allocator import keep_freed_memory
from ..data.masking import PretrainingSchedule
from ..errors import UserError
from ..jobs import STOP_SIGNAL, write_progress
from ..runs import PARTIAL

logger = logging.getLogger(__name__)
LARGEST_SEED = 2**32 - 1
"""What numpy's seeding takes."""
TRACKERS = ("tensorboard", "trackio", "wandb")


def check_report_to(name: str) -> None:
    """Raise UserError unless `--report-to` is `none` or a known tracker that is installed."""
    if name not in ("none", *TRACKERS):
        raise UserError(f"--report-to is {name!r}: choose none, {', '.join(TRACKERS)}.")
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"--report-to {name} needs the package {name}: pip install {name}, or choose none.")


def stays_on_cpu(use_cpu: bool, bf16: bool) -> bool:
    """Trainer's `use_cpu`: asked for, or bfloat16 without an accelerator (which Trainer takes only when told so)."""
    return use_cpu or (bf16 and not torch.accelerator.is_available())


def flush_tree(folder: Path) -> None:
    """Flush every file of a folder to disk, so that a rename after it is never seen before its content."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class InterruptCallback(TrainerCallback):
    """First SIGINT: finish the step, save a checkpoint, stop. A second one ends the process at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take SIGINT over (possible in the main thread only)."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
            if STOP_SIGNAL is not None:
                signal.signal(STOP_SIGNAL, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        logger.warning("Interrupted: saving a checkpoint after this step; interrupt again to stop at once.")
        self.interrupted = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end of training."""
        if self.interrupted and not control.should_training_stop:
            # A whole epoch is saved at its end, after its evaluation, which a continued run would not make up for.
            control.should_save = args.save_strategy != "epoch" or not self._epoch_is_whole(state)
            control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Within an epoch nothing is evaluated: the best epoch is chosen among whole ones, interrupted or not."""
        if self.interrupted and not self._epoch_is_whole(state):
            control.should_evaluate = control.should_save = False

    @staticmethod
    def _epoch_is_whole(state: TrainerState) -> bool:
        return state.epoch is not None and abs(state.epoch - round(state.epoch)) < 1e-6

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give SIGINT back."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


class ProgressFileCallback(TrainerCallback):
    """Note the share of steps done in the run's folder, at most once a second, for whoever waits for several runs."""

    def __init__(self) -> None:
        self._last = 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the share."""
        now = time.monotonic()
        if args.should_save and now - self._last >= 1:
            self._last = now
            write_progress(Path(args.output_dir), state.global_step / max(1, state.max_steps))


class RunTrainer(Trainer):
    """Trainer whose checkpoints appear whole or not at all.

    A checkpoint is written under `.partial`, flushed, and renamed to `checkpoint-N`; only then are older ones removed.
    After `kill -9` or a full disk the newest `checkpoint-N` is therefore always a good one.

    Args:
        *args: Trainer's.
        scorer: for pre-training, computes the metrics that `evaluate` logs, from the model.
        **kwargs: Trainer's.
    """

    def __init__(
        self,
        *args: Any,
        scorer: Callable[[torch.nn.Module], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.scorer = scorer
        self.interrupt = InterruptCallback()
        self.add_callback(self.interrupt)
        self.add_callback(ProgressFileCallback())

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Trainer's training; a checkpoint may have been moved with its run's folder, or be named from another one."""
        keep_freed_memory()
        if resume_from_checkpoint is not None:
            checkpoint = Path(resume_from_checkpoint)
            state_file = checkpoint / "trainer_state.json"
            state = TrainerState.load_from_json(str(state_file))
            if state.best_model_checkpoint is not None:
                # Where it is not found, Trainer would go on without a best checkpoint and end with the last weights.
                state.best_model_checkpoint = str(checkpoint.parent / Path(state.best_model_checkpoint).name)
                if self.args.should_save:
                    partial = state_file.with_suffix(".tmp")
                    state.save_to_json(str(partial))
                    partial.replace(state_file)
                self.accelerator.wait_for_everyone()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """A schedule is already in its order, and continuing at item i needs nothing but i."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(dataset, PretrainingSchedule):
            return SequentialSampler(dataset)
        return super()._get_train_sampler(train_dataset)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trainer's evaluation, or the fixed-mask scorer's where one was given."""
        if self.scorer is None:
            return super().evaluate(*args, **kwargs)
        metrics = {f"eval_{name}": value for name, value in self.scorer(self.model).items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        final_root = Path(self.args.output_dir)
        partial_root = final_root / PARTIAL
        if self.args.should_save:
            shutil.rmtree(partial_root, ignore_errors=True)
        self.args.output_dir = str(partial_root)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(final_root)
        if self.args.should_save:
            self._publish(partial_root, final_root)
        if self.args.world_size > 1:
            torch.distributed.barrier()
        best = self.state.best_model_checkpoint
        if best is not None and PARTIAL in Path(best).parts:
            self.state.best_model_checkpoint = str(final_root / Path(best).name)

    def _publish(self, partial_root: Path, final_root: Path) -> None:
        """Rename the one checkpoint under `partial_root` into place and drop those no longer needed."""
        (written,) = partial_root.iterdir()
        final = final_root / written.name
        best = self.state.best_model_checkpoint
        if best is not None and Path(best).parent == partial_root:
            self.state.best_model_checkpoint = best = str(final)
            self.state.save_to_json(str(written / "trainer_state.json"))
        flush_tree(written)
        shutil.rmtree(final, ignore_errors=True)
        written.rename(final)
        partial_root.rmdir()
        keep = {final, Path(best)} if best is not None else {final}
        for checkpoint in final_root.glob("checkpoint-*"):
            if checkpoint not in keep:
                shutil.rmtree(checkpoint)
