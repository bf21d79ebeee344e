"""`tlm score`: see `evaluation.scoring`."""

from collections.abc import Sequence

from ..evaluation.scoring import ScoreArguments, score
from .common import parse, run_command

SUMMARY = ("model", "task", "text", "metrics", "texts", "truncated")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(ScoreArguments, "score", score.__doc__ or "", argv)
    run_command(lambda: score(arguments), SUMMARY)
