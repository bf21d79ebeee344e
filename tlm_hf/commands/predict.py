"""`tlm predict`: see `evaluation.predict`."""

from collections.abc import Sequence

from ..evaluation.predict import PredictArguments, predict_command
from .common import parse, run_command

SUMMARY = ("predictions", "texts", "truncated", "output")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(PredictArguments, "predict", predict_command.__doc__ or "", argv)
    run_command(lambda: predict_command(arguments), SUMMARY)
