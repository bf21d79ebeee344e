"""Options as fields of dataclasses, from which `transformers.HfArgumentParser` makes the command line."""

from dataclasses import field
from typing import Any

from .errors import flag


def option(default: Any, description: str, **metadata: Any) -> Any:
    """Field of a dataclass of options; `metadata`: heading `group`, second name `alias`, keywords of argparse."""
    if "alias" in metadata:
        alias = metadata.pop("alias")
        metadata["aliases"] = [f"--{alias}", flag(alias)]
    made: Any = {"default_factory" if callable(default) else "default": default}
    return field(metadata={"help": description, **metadata}, **made)
