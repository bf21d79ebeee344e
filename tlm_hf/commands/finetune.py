"""`tlm finetune`: see `training.finetune`."""

from collections.abc import Sequence
from typing import Any

from ..training.finetune_options import ALIASES, GROUPS
from .common import Parser, run_command

DESCRIPTION = (
    "Fine-tune an encoder on a classification task, or train it from scratch; the same command continues a run."
)
SUMMARY = ("model", "task", "from_scratch", "validation", "test", "schedule", "members")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    options = Parser(GROUPS, "finetune", DESCRIPTION, ALIASES).parse(argv)

    def run() -> dict[str, Any]:
        if "models" not in options:
            from ..training.finetune import finetune

            return finetune(**options)
        from ..training.members import finetune_members

        return finetune_members(**options)

    run_command(run, SUMMARY)
