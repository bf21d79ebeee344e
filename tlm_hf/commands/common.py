"""What every command shares: parsing into a dataclass, quiet logs, and errors as one sentence with exit code 2."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import UserError

BAD_INPUT, INTERRUPTED = 2, 130
Arguments = TypeVar("Arguments")


def parse(arguments_class: type[Arguments], name: str, description: str, argv: Sequence[str] | None) -> Arguments:
    """Parse a command line into a dataclass; `--long-name` and `--long_name` are the same option."""
    from transformers import HfArgumentParser

    parser = HfArgumentParser(arguments_class, prog=f"tlm {name}", description=description)  # type: ignore[arg-type]
    (parsed,) = parser.parse_args_into_dataclasses(args=list(argv) if argv is not None else None)
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
        sys.stderr.write("Interrupted; the same command continues from the last checkpoint.\n")
        raise SystemExit(INTERRUPTED) from None
    if results is not None and summary and _is_main_process():
        print(json.dumps({key: results[key] for key in summary if key in results}, indent=2, ensure_ascii=False))


def quiet_libraries() -> None:
    """Keep our own messages visible among those of the libraries."""
    import datasets
    import transformers

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "httpx2", "filelock", "matplotlib", "datasets", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()


def _is_main_process() -> bool:
    import os

    return int(os.environ.get("RANK", "0")) == 0
