"""`tlm export`: see `tlm_hf.export`."""

from collections.abc import Sequence

from ..export import ExportArguments, export
from .common import parse, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(ExportArguments, "export", export.__doc__ or "", argv)
    run_command(lambda: export(arguments), ("files", "max_abs_diff"))
