"""`tlm import-paper-weights`: see `paper.import_weights`."""

import sys
from collections.abc import Sequence

from ..paper.import_weights import ImportArguments, import_paper_weights
from .common import parse, run_command

SUMMARY = (
    "output", "model", "recipe", "parameters", "num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size",
    "max_position_embeddings", "conv_channels", "conv_kernel_sizes", "labels", "notes",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line (`FOLDER OUTPUT` come first) and run."""
    words, named = list(sys.argv[1:] if argv is None else argv), []
    for option in ("--folder", "--output-dir"):
        if not words or words[0].startswith("-"):
            break
        named += [option, words.pop(0)]
    arguments = parse(ImportArguments, "import-paper-weights", import_paper_weights.__doc__ or "", [*named, *words])
    run_command(lambda: import_paper_weights(arguments), SUMMARY)
