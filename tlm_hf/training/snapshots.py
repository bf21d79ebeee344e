"""`--snapshot-steps N ...`: the encoder as it was after N steps, kept in `OUTPUT/step-N` like that of a finished run.

It is written before the checkpoint of its step, so a run that is killed and continued passes every step whose snapshot
is missing. The finished run is bit-equal to one without.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..runs.atomic_files import Json, whole_folder, write_json
from ..runs.checkpoints import writing
from ..runs.output_folder import RESULTS_FILE, Run
from .callbacks import CHECKPOINT
from .trainer import RunTrainer


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


class Snapshots(TrainerCallback):
    """Writes a snapshot after each of the steps, and has a checkpoint made.

    `describe` gives the results after a number of steps and is called in every process.
    """

    def __init__(self, run: Run, trainer: RunTrainer, steps: Sequence[int], describe: Callable[[int], Json]) -> None:
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
