"""`tlm finetune`: see `training.finetune`."""

from collections.abc import Sequence

from ..training.finetune import FinetuneArguments, finetune
from ..training.members import finetune_members
from .common import parse, run_command

SUMMARY = ("model", "task", "from_scratch", "validation", "test", "schedule", "members")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(FinetuneArguments, "finetune", finetune.__doc__ or "", argv)
    run_command(lambda: finetune_members(**vars(arguments)) if arguments.models else finetune(arguments), SUMMARY)
