"""`tlm pretrain`: see `training.pretrain`."""

from collections.abc import Sequence

from ..training.members import pretrain_members
from ..training.pretrain import pretrain
from ..training.pretrain_options import PretrainArguments
from .common import parse, run_command

SUMMARY = ("model", "steps", "held_out", "members")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(PretrainArguments, "pretrain", pretrain.__doc__ or "", argv)
    if arguments.members is None:
        run_command(lambda: pretrain(arguments), SUMMARY)
        return
    options = vars(arguments)
    num_members = options.pop("members")
    run_command(lambda: pretrain_members(num_members=num_members, **options), SUMMARY)
