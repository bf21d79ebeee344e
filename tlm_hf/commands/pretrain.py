"""`tlm pretrain`: see `training.pretrain`."""

from collections.abc import Sequence

from ..training.pretrain import PretrainArguments, pretrain
from .common import parse, run_command

SUMMARY = ("model", "steps", "held_out")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(PretrainArguments, "pretrain", pretrain.__doc__ or "", argv)
    run_command(lambda: pretrain(arguments), SUMMARY)
