"""`tlm benchmark WHAT`: training steps and commands, inference, members, tokenizing (`evaluation.*speed`)."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..benchmarks.inference_speed import InferenceBenchmarkArguments, benchmark_inference
from ..benchmarks.members_speed import MembersArguments, benchmark_members
from ..benchmarks.precision_loss import PrecisionArguments, compare_precisions
from ..benchmarks.speed import BenchmarkArguments, benchmark
from ..benchmarks.tokenizing_speed import TokenizingArguments, benchmark_tokenizing
from ..benchmarks.training_speed import TrainingBenchmarkArguments, benchmark_training
from .common import parse, run_command

SUMMARY = (
    "recipe", "ratio_same_precision", "ratio_best", "ratio_best_same_dropout",
    "ratio_same_precision_and_allocator", "loss_difference", "gradient_difference",
    "median_seconds", "matrix_product_seconds", "sequences_per_second", "peak_memory_mib",
)  # fmt: skip
TOKENIZING_SUMMARY = (
    "skipped", "ratio", "ratio_of_processor_time", "ratio_from_the_cache", "median_seconds", "texts_per_second",
    "tokens_per_second", "memory_by_texts",
)  # fmt: skip
TRAINING_SUMMARY = (
    "recipe", "schedule", "precision", "steps", "tokens_per_second", "share_outside", "share_of_peak", "step_seconds",
    "stock_step_seconds", "ratio", "hours", "stock_hours",
)  # fmt: skip
MEMBERS_SUMMARY = (
    "recipe", "members", "precision", "ratio_steps", "ratio_whole", "seconds_of_a_step_of_all", "products",
)  # fmt: skip
INFERENCE_SUMMARY = ("ratio", "max_abs_diff", "committee_ms", "reference_ms", "limit_ms", "rows")
OTHERS: dict[str, tuple[type, Callable[[Any], dict[str, Any]], tuple[str, ...]]] = {
    "inference": (InferenceBenchmarkArguments, benchmark_inference, INFERENCE_SUMMARY),
    "members": (MembersArguments, benchmark_members, MEMBERS_SUMMARY),
    "precision": (PrecisionArguments, compare_precisions, ("model", "task", "texts", "rows")),
    "tokenizing": (TokenizingArguments, benchmark_tokenizing, TOKENIZING_SUMMARY),
    "training": (TrainingBenchmarkArguments, benchmark_training, TRAINING_SUMMARY),
}
"""Benchmarks that have options of their own, by name."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line (the first word says what to measure) and run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "--what")
    elif not words:
        words = ["--what", ""]  # refused with the names of those that there are
    wanted = words[1] if words[0] == "--what" and len(words) > 1 else ""
    arguments_class, function, summary = OTHERS.get(wanted, (BenchmarkArguments, benchmark, SUMMARY))
    arguments = parse(arguments_class, "benchmark", function.__doc__ or "", words)
    run_command(lambda: function(arguments), summary)
