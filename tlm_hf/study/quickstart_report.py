"""Table, plot and closing lines of the quickstart."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """One line of the table.

    Args:
        model: what it is.
        parameters: how many; None for the linear baseline.
        scratch: test accuracies of the runs from scratch (the baseline's only one stands here).
        pretrained: test accuracies of the pre-trained runs.
        latency_ms: median milliseconds for one text on this machine.
        best_member: for a committee, the mean of its best member's test accuracy.
    """

    model: str
    parameters: int | None
    scratch: list[float]
    pretrained: list[float]
    latency_ms: float | None
    best_member: float | None = None

    @property
    def gap(self) -> float | None:
        """Accuracy that pre-training adds."""
        if not self.scratch or not self.pretrained:
            return None
        return statistics.mean(self.pretrained) - statistics.mean(self.scratch)


def spread(values: list[float]) -> str:
    """Mean and, over several runs, standard deviation and their number."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} ({len(values)} runs)"


def table(rows: list[Row]) -> str:
    """Markdown table, aligned so that it also reads well in a terminal."""
    header = ["model", "parameters", "from scratch", "pre-trained", "gap", "latency"]
    lines = [header]
    for row in rows:
        lines.append(
            [
                row.model,
                "" if row.parameters is None else f"{row.parameters:,}",
                spread(row.scratch),
                spread(row.pretrained),
                "" if row.gap is None else f"{row.gap:+.3f}",
                "" if row.latency_ms is None else f"{row.latency_ms:.2f} ms",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def epochs(of: dict[str, dict[str, float]]) -> str:
    """How long each kind of encoder was trained, in words."""
    parts = [
        f"{kind} {of['pretraining'][kind]:g} of pre-training and {of['finetuning'][kind]:g} of fine-tuning"
        for kind in ("shallow", "deep")
    ]
    return ", ".join(parts)


def report_text(summary: dict[str, Any], output: str) -> str:
    """What the command prints at its end, from the summary alone."""
    rows = [Row(**row) for row in summary["rows"]]
    corpus, task = summary["corpus"], summary["task"]
    committee = next(row for row in rows if row.best_member is not None)
    lines = ["", table(rows), ""]
    if summary["smoke"]:
        lines += ["This was a smoke run: it shows that every step works; its accuracies mean nothing.", ""]
    test, train, texts = task["test"], task["train"], corpus["texts"]
    mean = statistics.mean(committee.pretrained)
    lines += [
        f"Accuracy on {test} held-out paragraphs: which of {task['labels']} libraries does it document",
        f"({train} training texts; pre-trained on {texts:,} other paragraphs); ± is one standard deviation.",
        f"Epochs: {epochs(summary['epochs'])}.",
        f"Committees: {mean:.3f}; their best members: {committee.best_member:.3f} (means).",
        f"Plot: {output}/accuracy.png    Release folders: {output}/release/",
        "",
        "What to try next (after `. .venv/bin/activate`):",
        f'  tlm predict --model {output}/release/tlm-committee-docstrings --texts "Returns the eigenvalues."',
        "  tlm train-committee your.csv --text-column text --label-column label",
        "  accelerate launch scripts/pretrain.py --corpus wikipedia --size laptop --output-dir outputs/wikipedia",
    ]
    return "\n".join(lines)


def draw_plot(rows: list[Row], path: Path, *, smoke: bool) -> Path:
    """Bar chart of accuracy by model, one bar for each arm, every run as a dot; returns `path` (PNG)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    models = [row for row in rows if row.pretrained]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    width = 0.36
    arms = (("from scratch", "scratch", "#9aa5b1"), ("pre-trained", "pretrained", "#2f6db5"))
    for offset, (label, arm, colour) in enumerate(arms):
        places = [index + (offset - 0.5) * width for index in range(len(models))]
        means = [statistics.mean(getattr(row, arm)) for row in models]
        axes.bar(places, means, width, label=label, color=colour)
        for place, row, mean in zip(places, models, means, strict=True):
            values = getattr(row, arm)
            if len(values) > 1:
                axes.scatter([place] * len(values), values, s=9, color="black", zorder=3, alpha=0.6, linewidths=0)
            axes.annotate(
                f"{mean:.3f}", (place, max(values)), (0, 4), textcoords="offset points", ha="center", fontsize=8
            )
    for row in rows:
        if not row.pretrained:
            value = row.scratch[0]
            axes.axhline(value, color="#b5532f", linestyle="--", linewidth=1.2, label=f"{row.model} {value:.3f}")
    axes.set_xticks(range(len(models)), [row.model for row in models])
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
    axes.set_title("Which library does a docstring document?" + (" (smoke run: meaningless)" if smoke else ""))
    axes.legend(frameon=False, loc="upper left", ncols=3, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
