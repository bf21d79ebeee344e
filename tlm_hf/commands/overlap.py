"""`tlm overlap`: how much of a task's tokens a corpus has, and subsets of it with high, random and low overlap."""

from collections.abc import Sequence

from ..data.overlap_report import MEASURES, SHOWN, OverlapArguments, overlap
from ..runs.atomic_files import Json
from .common import parse, run_command

SUMMARY = ("corpus", "seconds")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    arguments = parse(OverlapArguments, "overlap", overlap.__doc__ or "", argv)
    results: Json = {}

    def run() -> Json:
        results.update(overlap(arguments))
        return results

    run_command(run, SUMMARY)
    print(markdown(results["table"]))


def markdown(table: Json) -> str:
    """The table as Markdown: a row for each task and subset, train and test values side by side."""
    lines = ["| task | subset | " + " | ".join(f"{measure} (train, test)" for measure in MEASURES) + " |"]
    lines.append("|---|---|" + "---|" * len(MEASURES))
    for task, rows in table.items():
        for kind, row in rows.items():
            cells = (", ".join(f"{row[split][measure]:.4f}" for split in SHOWN) for measure in MEASURES)
            lines.append(f"| {task} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)
