"""What we add to transformers.Trainer: checkpoints that are whole or absent, SIGINT that saves, a fixed-mask loss."""

import contextlib
import importlib.util
import json
import logging
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
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..allocator import keep_freed_memory
from ..data.masking import PretrainingSchedule
from ..errors import UserError
from ..runs.checkpoints import (
    RUNNING_LOSS,
    STATE_FILE,
    best_beside,
    cannot_write,
    list_checkpoints,
    publish,
    read_manifest,
    seal,
    step_of,
)
from ..runs.output_folder import PARTIAL
from ..runs.worker_pool import STOP_SIGNAL, write_progress
from .callbacks import WatchedTrainer
from .step_clock import CHECKPOINT, EVALUATION

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


def stays_on_cpu(use_cpu: bool) -> bool:
    """Trainer's `use_cpu`: asked for, or no accelerator there (else every process of torchrun would train alone)."""
    return use_cpu or not torch.accelerator.is_available()


class InterruptCallback(TrainerCallback):
    """First SIGINT: finish the step, save a checkpoint, stop. A second one ends the process at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take SIGINT over (possible in the main thread only).

        Several processes would stop after different steps and wait for each other for ever: they end at once, and
        continue from the last checkpoint.
        """
        if args.world_size == 1 and threading.current_thread() is threading.main_thread():
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
        self.give_back()

    def give_back(self) -> None:
        """Give SIGINT back to whom it belonged to before training."""
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
            with contextlib.suppress(OSError):  # a full disk: the next checkpoint says so and stops
                write_progress(Path(args.output_dir), state.global_step / max(1, state.max_steps))


class _ContinueCallback(TrainerCallback):
    """Give the trainer what Trainer forgets between two parts of a run, after it has reset everything else."""

    def __init__(self, trainer: "RunTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the running loss and the place of the best checkpoint."""
        self.trainer.restore_run()


class RunTrainer(WatchedTrainer):
    """Trainer whose checkpoints appear whole or not at all, and whose continued runs log what uninterrupted ones log.

    A checkpoint is written under `.partial`, sealed with a manifest, flushed, and renamed to `checkpoint-N`; only then
    are older ones removed but for the last two and the best (`runs.checkpoints`). After `kill -9` or a full disk
    the newest `checkpoint-N` is therefore a good one. Trainer's `training_args.bin`, a pickle that can only be read by
    running it, is left out.

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
        self.add_callback(_ContinueCallback(self))
        self._continued: Path | None = None
        self._rejected: set[str] = set()

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Trainer's training; a checkpoint may have been moved with its run's folder, or be named from another one.

        Raises:
            UserError: no space for a checkpoint, or FSDP with sharded state, whose files only a pickle can read.
        """
        keep_freed_memory()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
            raise UserError(
                "Sharded FSDP checkpoints could be read only by running a pickle: set fsdp_state_dict_type to "
                "FULL_STATE_DICT."
            )
        root = Path(self.args.output_dir)
        self._continued = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        begun = -1 if self._continued is None else step_of(self._continued)
        self._rejected = {path.name for path in list_checkpoints(root) if step_of(path) > begun}
        if self.args.should_save:
            shutil.rmtree(root / PARTIAL, ignore_errors=True)  # what a kill left may be what fills the disk
        if self._continued is not None:
            self._tell_processes(read_manifest(self._continued)["processes"])
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self.interrupt.give_back()

    def _tell_processes(self, before: int) -> None:
        now = self.args.world_size
        if before != now and self.args.should_save:
            logger.warning(
                "The run began with %d process%s and goes on with %d: same texts and masks, but sums are rounded and "
                "dropout is drawn otherwise, so it will not end in the same bits.",
                before,
                "" if before == 1 else "es",
                now,
            )

    def restore_run(self) -> None:
        """Restore the running loss, so that the loss logged next is over all steps since the last log."""
        if self._continued is None:
            return
        self.state.compute_steps(self.args, self.state.max_steps)  # --save-steps as given now, not as at the start
        best = best_beside(self._continued)
        if best is not None and best.is_dir():
            # Where it is not found, Trainer would go on without a best checkpoint and end with the last weights.
            self.state.best_model_checkpoint = str(best)
        running = json.loads((self._continued / RUNNING_LOSS).read_text(encoding="utf-8"))
        sums = running["sums"]
        same = len(sums) == self.args.world_size
        part = sums[self.args.process_index] if same else sum(sums) / len(sums)
        self._tr_loss = torch.tensor(part, device=self.args.device)
        self._total_loss_scalar = running["total"]
        self._globalstep_last_logged = running["last_logged_step"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's; `train_loss` is the mean over the whole run and not over its last part."""
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """A schedule is already in its order, and continuing at item i needs nothing but i."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(dataset, PretrainingSchedule):
            return SequentialSampler(dataset)
        return super()._get_train_sampler(train_dataset)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Trainer's evaluation, or the fixed-mask scorer's where one was given."""
        with self.clock.apart(EVALUATION):
            return self._evaluate_or_score(*args, **kwargs)

    def _evaluate_or_score(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self.scorer is None:
            return super().evaluate(*args, **kwargs)
        metrics = {f"eval_{name}": value for name, value in self.scorer(self.model).items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write, seal and publish a checkpoint; on a full disk leave nothing of it and stop with one sentence."""
        with self.clock.apart(CHECKPOINT):
            self._write_checkpoint(model, trial)

    def _write_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        final_root = Path(self.args.output_dir)
        partial_root = final_root / PARTIAL
        running = {
            "last_logged_step": self._globalstep_last_logged,
            "sums": self.accelerator.gather(self._tr_loss.detach().reshape(1)).tolist(),
            "total": self._total_loss_scalar,
        }
        if self.args.should_save:
            shutil.rmtree(partial_root, ignore_errors=True)
        # No process may write before the first one has emptied the folder, and it may not publish before all have.
        self.accelerator.wait_for_everyone()
        self.args.output_dir = str(partial_root)
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._publish(partial_root, final_root, running)
        except Exception as error:
            # The other processes wait at a barrier for one that fails; their launcher ends them with it.
            shutil.rmtree(partial_root, ignore_errors=True)
            what = f"The checkpoint of step {self.state.global_step}"
            sentence = cannot_write(error, what, final_root, self._rejected)
            if sentence is None:
                raise
            raise sentence from error
        finally:
            self.args.output_dir = str(final_root)
        self.accelerator.wait_for_everyone()
        best = self.state.best_model_checkpoint
        if best is not None and PARTIAL in Path(best).parts:
            self.state.best_model_checkpoint = str(final_root / Path(best).name)

    def _publish(self, partial_root: Path, final_root: Path, running: dict[str, Any]) -> None:
        """Add what Trainer does not save, seal the one checkpoint under `partial_root`, and put it into place."""
        (written,) = partial_root.iterdir()
        (written / RUNNING_LOSS).write_text(json.dumps(running) + "\n", encoding="utf-8")
        best = self.state.best_model_checkpoint
        if best is not None and Path(best).parent == partial_root:
            self.state.best_model_checkpoint = best = str(final_root / written.name)
            self.state.save_to_json(str(written / STATE_FILE))
        seal(written, self.state.global_step, self.args.world_size)
        publish(written, final_root, None if best is None else Path(best), self._rejected)
