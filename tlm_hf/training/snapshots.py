"""`--snapshot-steps N ...`: the encoder as it was after N steps, kept in `OUTPUT/step-N` beside the finished one.

A snapshot is a folder like that of a finished run, so it can be fine-tuned, scored, or named as a branch by a release
file. It is written before the checkpoint of its step, so a run that is killed and continued passes every step whose
snapshot is missing. The finished run is bit-equal to one without.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..runs.atomic_files import Json, whole_folder, write_json
from ..runs.checkpoints import writing
from ..runs.output_folder import RESULTS_FILE, Run


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


def encoder_saver(trainer: Trainer) -> Callable[[Path], None]:
    """What writes a trainer's model as it is now, and its tokenizer, into a folder.

    Every process must call this, for sharded weights are gathered here; what it returns one of them may call.
    """
    model, tokenizer = trainer.model, trainer.processing_class
    state = trainer.accelerator.get_state_dict(model)

    def save(folder: Path) -> None:
        model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)

    return save


class Snapshots(TrainerCallback):
    """Has a checkpoint made after each of the steps, before which the trainer calls `write`.

    `describe` gives the results after a number of steps and is called in every process.
    """

    def __init__(self, run: Run, steps: Sequence[int], describe: Callable[[int], Json]) -> None:
        self.run, self.steps, self.describe = run, frozenset(steps), describe

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Ask for the checkpoint."""
        if state.global_step in self.steps:
            control.should_save = True

    def write(self, trainer: Trainer) -> None:
        """Write the snapshot of the trainer's step, if one was asked for; every process must call this."""
        step = trainer.state.global_step
        folder = snapshot_folder(self.run.folder, step)
        if step not in self.steps or folder.is_dir():  # passed before a kill
            return
        results = self.run.describe({**self.describe(step), "snapshot": step})
        results["settings"]["snapshot_steps"] = [step]  # the command that makes this folder
        save = encoder_saver(trainer)
        trainer.accelerator.wait_for_everyone()  # none may look for the folder after the first one has made it
        if trainer.args.should_save:
            with writing(f"The snapshot of step {step}", self.run.folder), whole_folder(folder) as draft:
                save(draft)
                write_json(draft / RESULTS_FILE, results)
        trainer.accelerator.wait_for_everyone()
