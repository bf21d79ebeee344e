"""Exact resume: `RunTrainer`, a transformers.Trainer that is continued to the same bits; and its push to the Hub."""

import ctypes
import logging
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments

from ..data.masking import PretrainingSchedule
from ..errors import UserError, refusing
from ..runs import checkpoints
from ..runs.atomic_files import read_json, write_json
from ..runs.output_folder import is_main_process
from .callbacks import CHECKPOINT, EVALUATION, Interrupt, ProgressFile, StepClock

logger = logging.getLogger(__name__)
NOT_PUSHED = ["checkpoint-*", ".*", "*.log", "run.json", "time_budget.json"]  # what only continuing needs
PUSH_ERRORS = (HTTPError, LocalTokenNotFoundError, ValueError, OSError)
MALLOC = {-3: 2**31 - 1, -1: 2**31 - 1, -2: 2**26}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD (man 3 mallopt)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed large tensors; by default each step has it mapped and zeroed again."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        for option, value in MALLOC.items():
            ctypes.CDLL(None).mallopt(option, value)


class RunTrainer(Trainer):
    """Trainer whose checkpoints appear whole or not at all, and whose continued run ends in the same bits.

    Interrupted (SIGINT or SIGTERM save first), killed, or stopped by a full disk, it continues with the same script:

        model = AutoModelForSequenceClassification.from_pretrained("google/bert_uncased_L-2_H-128_A-2")
        arguments = TrainingArguments("out", num_train_epochs=3, save_steps=100, logging_nan_inf_filter=False)
        trainer = RunTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        trainer.train(resume_from_checkpoint=True)  # from the newest whole checkpoint in "out", if there is one
        trainer.save_model("out/final")

    The last two checkpoints and the best one are kept, without Trainer's `training_args.bin`, a pickle. A loss or
    weight that is not finite stops the run at the next log line or checkpoint, and the last good checkpoint stays.

    Beside Trainer's arguments, `scorer` computes the metrics of `evaluate` from the model, `rate` gives the share of
    the peak learning rate of `(step, steps)`, `decays_everything` is weight decay for biases and LayerNorms too, and
    `change` changes the inputs of a training step: what it draws, a continued run draws again, unlike a collator, which
    works ahead of the steps.
    """

    def __init__(
        self,
        *args: Any,
        scorer: Callable[[torch.nn.Module], dict[str, float]] | None = None,
        rate: Callable[[int, int], float] | None = None,
        decays_everything: bool = False,
        change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.scorer, self.rate, self.decays_everything, self.change = scorer, rate, decays_everything, change
        super().__init__(*args, **kwargs)
        if isinstance(self.train_dataset, PretrainingSchedule):  # so that continuing at item i needs only i
            self.args.train_sampling_strategy = "sequential"
        self.clock, self.interrupt = StepClock(), Interrupt()
        restore = TrainerCallback()
        restore.on_train_begin = lambda *_, **__: self._restore_run()  # type: ignore[method-assign, assignment]
        for callback in (self.clock, self.interrupt, ProgressFile(), restore):
            self.add_callback(callback)
        self._continued: Path | None = None
        self.started = time.perf_counter()

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs: Any) -> Any:
        """Trainer's training, from a checkpoint or (True) from the newest whole one of `output_dir`, if there is one.

        Raises UserError without space for a checkpoint, or for a loss or weight that is not finite; KeyboardInterrupt
        (`errors.Terminated` after SIGTERM) after it saved a checkpoint (one process, in its main thread; else none).
        """
        self.started = time.perf_counter()
        keep_freed_memory()
        if self.is_fsdp_enabled:
            raise UserError("Sharding a model (FSDP) is not supported: start with distributed_type MULTI_GPU.")
        root = Path(self.args.output_dir)
        chosen = checkpoints.last_whole(root) if resume_from_checkpoint is True else resume_from_checkpoint
        self._continued = Path(chosen) if chosen else None
        if self.args.should_save:
            shutil.rmtree(root / checkpoints.PARTIAL, ignore_errors=True)  # what a kill left may be what fills the disk
        if self._continued is not None and self.args.should_save:
            before, now = read_json(self._continued / checkpoints.MANIFEST)["processes"], self.args.world_size
            if before != now:
                began = f"The run began with {before} process{'es' * (before > 1)} and continues with {now}"
                logger.warning("%s: same texts and masks, but sums, dropout and so the bits will differ.", began)
        if self._continued is not None:
            logger.info("Continuing from step %d.", self.continued_from_step)
        with self.interrupt.during():
            return super().train(str(chosen) if chosen else None, **kwargs)

    @property
    def continued_from_step(self) -> int:
        """Step of the checkpoint that training continued from; 0 for a start."""
        return 0 if self._continued is None else checkpoints.step_of(self._continued)

    def without_autocast(self) -> Any:
        """The model without the autocast that Accelerate wraps around it: it then scores as the saved one does."""
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

    def _restore_run(self) -> None:
        """Restore what Trainer forgets: the running loss since the last log line, and where the best checkpoint is."""
        if self._continued is None:
            return
        self.state.compute_steps(self.args, self.state.max_steps)  # --save-steps as given now, not as at the start
        best = checkpoints.best_beside(self._continued)
        if best is not None and best.is_dir():  # else Trainer would end with the last weights
            self.state.best_model_checkpoint = str(best)
        running = read_json(self._continued / checkpoints.RUNNING_LOSS)
        sums = running["sums"]
        part = sums[self.args.process_index] if len(sums) == self.args.world_size else sum(sums) / len(sums)
        self._tr_loss = torch.tensor(part, device=self.args.device)
        self._total_loss_scalar = running["total"]
        self._globalstep_last_logged = running["last_logged_step"]

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        inputs = inputs if self.change is None else self.change(inputs)
        self.clock.count(inputs)
        return super().training_step(model, inputs, *args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if (rate := self.rate) is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: rate(step, num_training_steps))
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        every = [name for name, _ in model.named_parameters()]
        return every if self.decays_everything else super().get_decay_parameter_names(model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's; `train_loss` is the mean over the whole run, and `epoch` counts those of a schedule's texts."""
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        share, data = self.state.epoch, self.train_dataset
        if isinstance(data, PretrainingSchedule):
            self.state.epoch = self.state.global_step * data.batch_size / len(data.input_ids)
        super().log(logs, start_time)
        self.state.epoch = share
        if not math.isfinite(logs.get("loss", 0.0)):
            self._stop("The loss")

    def _stop(self, what: str) -> NoReturn:
        """Raise the one sentence, in every process alike, so that none waits for another."""
        good = checkpoints.list_checkpoints(Path(self.args.output_dir))
        left = f"the last good checkpoint is {good[0]}" if good else "no checkpoint was saved before it"
        where = f"step {self.state.global_step} (peak learning rate {self.args.learning_rate:.3g})"
        remedy = "start again with a lower --learning-rate or a longer warm-up in another --output-dir"
        raise UserError(f"{what} is not a finite number at {where}: {left}; {remedy}.")

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.clock.apart(EVALUATION):
            if self.scorer is None:
                return super().evaluate(*args, **kwargs)
            metrics = {f"eval_{name}": value for name, value in self.scorer(self.model).items()}
            self.log(metrics)
            now: Any = (self.args, self.state, self.control)
            self.control: TrainerControl = self.callback_handler.on_evaluate(*now, metrics)
            return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _save_rng_state(self, output_dir: str) -> None:
        """Once the first process has written the model: else another makes the folder again that a full disk ended."""
        self.accelerator.wait_for_everyone()
        super()._save_rng_state(output_dir)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Check the numbers, then write a checkpoint, add what Trainer does not save, seal it and put it into place."""
        root, step = Path(self.args.output_dir), self.state.global_step
        partial = root / checkpoints.PARTIAL
        with self.clock.apart(CHECKPOINT):
            totals = [each.detach().abs().sum(dtype=torch.float32) for each in self.model.parameters()]
            finite = torch.isfinite(torch.stack([self._tr_loss, *totals])).all()
            if not self.accelerator.gather(finite.reshape(1)).all():
                self._stop("A loss or weight")
            sums = self.accelerator.gather(self._tr_loss.detach().reshape(1)).tolist()
            if self.args.should_save:
                shutil.rmtree(partial, ignore_errors=True)
            # No process may write before the first one has emptied the folder, and it may not publish before all have.
            self.accelerator.wait_for_everyone()
            self.args.output_dir = str(partial)
            try:
                # The other processes wait at a barrier for one that fails; their launcher ends them with it.
                with checkpoints.writing(f"The checkpoint of step {step}", root):
                    super()._save_checkpoint(model, trial)
                    best = Path(self.state.best_model_checkpoint or "")
                    if best.parent == partial:
                        self.state.best_model_checkpoint = str(root / best.name)
                    self.accelerator.wait_for_everyone()
                    if self.args.should_save:
                        (written,) = partial.iterdir()
                        self.state.save_to_json(str(written / checkpoints.STATE_FILE))
                        running = {"last_logged_step": self._globalstep_last_logged, "sums": sums}
                        write_json(written / checkpoints.RUNNING_LOSS, running | {"total": self._total_loss_scalar})
                        checkpoints.seal(written, step, self.args.world_size)
                        checkpoints.publish(written, root, best.name)
            finally:
                self.args.output_dir = str(root)
            self.accelerator.wait_for_everyone()


def prepare_push(options: Mapping[str, Any], arguments: TrainingArguments) -> Callable[[Path], object]:
    """Make the repository before any work, and return what uploads the finished folder; UserError if refused."""
    if not options.get("push_to_hub") or not is_main_process():
        return lambda folder: None
    name, revision = arguments.hub_model_id or Path(arguments.output_dir).absolute().name, arguments.hub_revision
    api = HfApi(token=arguments.hub_token)
    refusal = f"The Hub refuses {name!r}", "see --hub-model-id and `hf auth login`"
    with refusing(*refusal, *PUSH_ERRORS):
        repo_id = api.create_repo(name, private=arguments.hub_private_repo, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)

    def push(folder: Path) -> None:
        failure = f"{folder} is finished, but was not pushed to {repo_id}", "run the same command again"
        with refusing(*failure, *PUSH_ERRORS):
            what = {"folder_path": folder, "revision": revision, "ignore_patterns": NOT_PUSHED}
            api.upload_folder(repo_id=repo_id, commit_message="Trained with tlm-hf", **what)

    return push
