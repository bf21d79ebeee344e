"""`tlm train-committee`: see `training.train_committee`."""

import sys
from collections.abc import Sequence

from ..training.train_committee import OwnDataArguments, train_committee
from .common import parse, run_command

SUMMARY = ("output_dir", "labels", "rows", "committee", "members", "tfidf", "next")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line (the data set may come first, without `--data`) and run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "--data")
    options = vars(parse(OwnDataArguments, "train-committee", train_committee.__doc__ or "", words))
    columns = {"text": options.pop("text_column"), "label": options.pop("label_column")}
    run_command(lambda: train_committee(options.pop("data"), **columns, **options), SUMMARY)
