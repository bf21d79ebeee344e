"""What every command shares: parsing into a dataclass, quiet logs, and errors as one sentence with exit code 2."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from ..errors import UserError
from ..runs.output_folder import is_main_process
from ..runs.quiet import quiet_libraries

BAD_INPUT, INTERRUPTED = 2, 130
Arguments = TypeVar("Arguments")


def parse(arguments_class: type[Arguments], name: str, description: str, argv: Sequence[str] | None) -> Arguments:
    """Parse a command line into a dataclass; `--long-name` and `--long_name` are the same option.

    A wrong command line ends the process with exit code 2 and one sentence, without argparse's page of usage.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            sys.stderr.write(f"error: {message} (tlm {name} --help lists the options).\n")
            raise SystemExit(BAD_INPUT)

    parser = Parser(arguments_class, prog=f"tlm {name}", description=description.strip().split("\n\n")[0])  # type: ignore[arg-type]
    words = list(argv) if argv is not None else None
    parsed, unknown = parser.parse_args_into_dataclasses(args=words, return_remaining_strings=True)
    if unknown:
        parser.error(f"there is no option {unknown[0]!r}")
    return parsed


def run_command(function: Callable[[], dict[str, Any] | None], summary: Sequence[str] = ()) -> None:
    """Call `function`, print the named parts of its results, and leave with 0, 2 (bad input) or 130 (interrupted)."""
    quiet_libraries()
    try:
        results = function()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(BAD_INPUT) from None
    except KeyboardInterrupt:
        sys.stderr.write(
            "Interrupted; the same command continues where it stood, or begins again where nothing was finished.\n"
        )
        raise SystemExit(INTERRUPTED) from None
    if results is not None and summary and is_main_process():
        print(json.dumps({key: results[key] for key in summary if key in results}, indent=2, ensure_ascii=False))
