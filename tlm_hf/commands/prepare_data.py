"""`tlm prepare-data`: see `data.dataset_folder`."""

from collections.abc import Sequence

from ..data.dataset_folder import prepare_data
from ..data.prepare import PrepareDataArguments
from .common import parse, run_command

SUMMARY = ("output_dir", "rows", "leaking")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(PrepareDataArguments, "prepare-data", prepare_data.__doc__ or "", argv)
    run_command(lambda: prepare_data(arguments), SUMMARY)
