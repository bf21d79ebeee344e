"""`tlm pretrain`: see `training.pretrain`."""

from collections.abc import Sequence
from typing import Any

from ..training.pretrain_options import ALIASES, GROUPS
from .common import Parser, run_command

DESCRIPTION = "Pre-train an encoder on text, or continue an existing one (--model); the same command continues a run."
SUMMARY = ("model", "steps", "held_out", "members")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    options = Parser(GROUPS, "pretrain", DESCRIPTION, ALIASES).parse(argv)

    def run() -> dict[str, Any]:
        if "num_members" not in options:
            from ..training.pretrain import pretrain

            return pretrain(**options)
        from ..training.members import pretrain_members

        return pretrain_members(**options)

    run_command(run, SUMMARY)
