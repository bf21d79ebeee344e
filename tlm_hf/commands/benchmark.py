"""`tlm benchmark WHAT`: see `benchmarks`."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..benchmarks.inference_speed import InferenceSpeedArguments, benchmark_inference
from ..benchmarks.precision_loss import PrecisionArguments, compare_precisions
from ..benchmarks.training_speed import StepArguments, TrainingSpeedArguments, benchmark_steps, benchmark_training
from ..runs.atomic_files import Json
from .common import BAD_INPUT, parse, run_command

BENCHMARKS: dict[str, tuple[type, Callable[[Any], Json]]] = {
    "pretraining": (StepArguments, benchmark_steps),
    "finetuning": (StepArguments, benchmark_steps),
    "training": (TrainingSpeedArguments, benchmark_training),
    "inference": (InferenceSpeedArguments, benchmark_inference),
    "precision": (PrecisionArguments, compare_precisions),
}
SUMMARY = (
    "recipe", "schedule", "precision", "members", "model", "task", "ratio", "ratio_steps", "ratio_whole",
    "ratio_same_precision", "ratio_best", "ratio_best_same_dropout", "ratio_same_precision_and_allocator",
    "ratio_from_the_cache", "loss_difference", "gradient_difference", "median_seconds", "peak_memory_mib",
    "tokens_per_second", "share_outside", "step_seconds", "stock_step_seconds", "hours", "stock_hours", "rows",
)  # fmt: skip
"""Parts of the results that are printed."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line (the first word says what to measure) and run."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words else ""
    known = ", ".join(BENCHMARKS)
    if name in ("-h", "--help"):
        print(f"usage: tlm benchmark WHAT [options]   (tlm benchmark WHAT --help lists them; WHAT: {known})")
        return
    if name not in BENCHMARKS:
        sys.stderr.write(f"error: there is no benchmark {name!r}; choose one of {known}.\n")
        raise SystemExit(BAD_INPUT)
    arguments_class, function = BENCHMARKS[name]
    if arguments_class is StepArguments:
        words = ["--what", name, *words]
    arguments: Any = parse(arguments_class, f"benchmark {name}", function.__doc__ or "", words)
    run_command(lambda: function(arguments), SUMMARY)
