"""Plots of the inference benchmark: latency against the number of members, and against length."""

from pathlib import Path
from typing import Any

COLOURS = {"torch fp32": "#2f6db5", "torch bf16": "#7aa7d9", "onnx fp32": "#b5532f", "onnx int8": "#e0a080"}


def draw_latency(rows: list[dict[str, Any]], path: Path) -> Path:
    """Draw a figure of two columns: milliseconds against members at the greatest length, and against length.

    Args:
        rows: those of `benchmark_inference`.
        path: PNG file to write; a row of panels for each batch size, the reference dashed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    batches = sorted({row["batch_size"] for row in rows})
    longest, most = (max(row[name] for row in rows) for name in ("sequence_length", "members"))
    panels = (("members", "sequence_length", longest), ("sequence_length", "members", most))
    figure, grid = plt.subplots(len(batches), 2, figsize=(9, 3.2 * len(batches)), layout="constrained", squeeze=False)
    for line, batch in zip(grid, batches, strict=True):
        for axes, (across, fixed, value) in zip(line, panels, strict=True):
            for name, colour in COLOURS.items():
                chosen = sorted(
                    (
                        row
                        for row in rows
                        if row["batch_size"] == batch and row[fixed] == value and name == kind_of(row)
                    ),
                    key=lambda row: row[across],
                )
                if not chosen:
                    continue
                places = [row[across] for row in chosen]
                axes.plot(
                    places, [row["committee_ms"] for row in chosen], "o-", color=colour, label=f"committee, {name}"
                )
                axes.plot(
                    places, [row["reference_ms"] for row in chosen], "--", color=colour, label=f"reference, {name}"
                )
            axes.set_yscale("log")
            axes.set_xlabel(across.replace("_", " "))
            axes.set_ylabel("milliseconds")
            axes.set_title(f"batch of {batch}, {fixed.replace('_', ' ')} {value}", fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def kind_of(row: dict[str, Any]) -> str:
    """Runtime and precision of a row."""
    return f"{row['runtime']} {row['precision']}"
