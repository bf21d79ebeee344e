"""`tlm committee`: see `training.join_committee`."""

from collections.abc import Sequence

from ..training.join_committee import CommitteeArguments, join_committee
from .common import parse, run_command

SUMMARY = ("task", "members", "temperature", "validation", "test", "best_member_test_accuracy")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(CommitteeArguments, "committee", join_committee.__doc__ or "", argv)
    run_command(lambda: join_committee(arguments), SUMMARY)
