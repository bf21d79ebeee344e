"""`tlm score`: see `evaluation.score`."""

from collections.abc import Sequence

from ..evaluation.score import ScoreArguments, score
from .common import parse, run_command

SUMMARY = ("model", "task", "text", "metrics", "texts", "truncated")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(ScoreArguments, "score", score.__doc__ or "", argv)
    run_command(lambda: score(arguments), SUMMARY)
