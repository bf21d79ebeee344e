"""`tlm benchmark pretraining|finetuning`: see `evaluation.speed`."""

import sys
from collections.abc import Sequence

from ..evaluation.speed import BenchmarkArguments, benchmark
from .common import parse, run_command

SUMMARY = (
    "recipe", "ratio_same_precision", "ratio_best", "ratio_best_same_dropout",
    "ratio_same_precision_and_allocator", "loss_difference", "gradient_difference",
    "median_seconds", "matrix_product_seconds", "sequences_per_second", "peak_memory_mib",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line (the first word says what to measure) and run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "--what")
    elif not words:
        words = ["--what", ""]  # refused with the names of those that there are
    arguments = parse(BenchmarkArguments, "benchmark", benchmark.__doc__ or "", words)
    run_command(lambda: benchmark(arguments), SUMMARY)
