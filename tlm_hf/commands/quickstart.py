"""`tlm quickstart`: see `study.quickstart`."""

from collections.abc import Sequence

from ..study.quickstart import QuickstartArguments, quickstart
from .common import parse, run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, run, and print the report."""
    arguments = parse(QuickstartArguments, "quickstart", quickstart.__doc__ or "", argv)

    def report() -> None:
        print(quickstart(arguments)["report"])

    run_command(report)
