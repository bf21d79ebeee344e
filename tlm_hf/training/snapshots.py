"""`--snapshot-steps N ...`: the encoder as it was after N steps, kept in `OUTPUT/step-N` beside the finished one.

A snapshot is a folder like that of a finished run, so it can be fine-tuned, scored, or named as a branch by a release
file. Like a checkpoint it is whole or absent. No checkpoint of step N or later appears before it, so a run that is
killed and continued passes every step whose snapshot is missing. The finished run is bit-equal to one without.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..runs.atomic_files import file_hash, flush, flush_tree, write_json
from ..runs.checkpoints import PARTIAL, writing
from ..runs.output_folder import RESULTS_FILE, Run
from .callbacks import CHECKPOINT, EVALUATION
from .trainer import RunTrainer

WEIGHTS = "model.safetensors"


def snapshot_folder(run: Path, step: int) -> Path:
    """Where the snapshot of a step is in a run's folder."""
    return run / f"step-{step}"


def check_not_missed(run: Path, steps: Sequence[int], done: int | None = None) -> None:
    """Raise UserError for a snapshot of a step that the run passed without it; `done` is None for a finished run."""
    for step in steps:
        if (done is None or step <= done) and not (snapshot_folder(run, step) / RESULTS_FILE).is_file():
            where = "has finished" if done is None else f"is at step {done}"
            raise UserError(
                f"The run in {run} {where} and has no snapshot of step {step}: leave it out of --snapshot-steps, or "
                "choose another --output-dir."
            )


def encoder_saver(trainer: RunTrainer, tokenizer: PreTrainedTokenizerBase) -> Callable[[Path], None]:
    """What writes a trainer's model as it is now, and its tokenizer, into a folder.

    Every process must call this, for sharded weights are gathered here; what it returns one of them may call.
    """
    model, state = trainer.model, trainer.accelerator.get_state_dict(trainer.model)

    def save(folder: Path) -> None:
        model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)

    return save


class Snapshots(TrainerCallback):
    """Has a checkpoint made after each of the steps, and writes the snapshot before it.

    With a checkpoint the loss and every weight are checked first (`LossWatch`), so no snapshot holds NaN.
    `describe` gives the results after a number of steps and is called in every process.
    """

    def __init__(
        self,
        run: Run,
        steps: Sequence[int],
        tokenizer: PreTrainedTokenizerBase,
        describe: Callable[[int], dict[str, Any]],
    ) -> None:
        self.run, self.steps, self.tokenizer, self.describe = run, frozenset(steps), tokenizer, describe

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for the checkpoint."""
        if state.global_step in self.steps:
            control.should_save = True

    def write(self, trainer: RunTrainer) -> None:
        """Write the snapshot of the trainer's step, if one was asked for; every process must call this."""
        step = trainer.state.global_step
        if step not in self.steps:
            return
        with trainer.clock.apart(EVALUATION):
            results = self.run.describe({**self.describe(step), "snapshot": step})
        results["settings"]["snapshot_steps"] = [step]  # the command that makes this folder
        with trainer.clock.apart(CHECKPOINT):
            save = encoder_saver(trainer, self.tokenizer)
            if trainer.args.should_save:
                self._put_in_place(save, step, results)
            trainer.accelerator.wait_for_everyone()

    def _put_in_place(self, save: Callable[[Path], None], step: int, results: dict[str, Any]) -> None:
        """Write the folder under `.partial`, flush and rename it; on a full disk leave nothing of it."""
        partial, final = self.run.folder / PARTIAL, snapshot_folder(self.run.folder, step)
        written = partial / final.name
        shutil.rmtree(partial, ignore_errors=True)
        with writing(f"The snapshot of step {step}", self.run.folder):
            written.mkdir(parents=True)
            save(written)
            write_json(written / RESULTS_FILE, results)
            flush_tree(written)
            whole = (final / RESULTS_FILE).is_file() and (final / WEIGHTS).is_file()
            if not whole or file_hash(final / WEIGHTS) != file_hash(written / WEIGHTS):
                if final.exists():  # the run was here before, was killed, and continued from an earlier checkpoint
                    final.rename(partial / "old")
                written.rename(final)
                flush(self.run.folder)
            shutil.rmtree(partial)
