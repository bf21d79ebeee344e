"""Options as fields of dataclasses, from which `transformers.HfArgumentParser` makes the command line."""

from dataclasses import field
from typing import Any

from .errors import flag


def option(default: Any, description: str, **metadata: Any) -> Any:
    """Field of a dataclass of options: its default, or the function that makes it, and what `--help` says.

    `metadata` may hold the heading `group`, a second name `alias`, and keywords of argparse's `add_argument`.
    """
    if "alias" in metadata:
        alias = metadata.pop("alias")
        metadata["aliases"] = [f"--{alias}", flag(alias)]
    made: Any = {"default_factory" if callable(default) else "default": default}
    return field(metadata={"help": description, **metadata}, **made)
