"""Table, plot and closing lines of the quickstart."""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from ..runs.atomic_files import Json
from ..runs.figure import new_figure


@dataclass
class TableRow:
    """One line of the table: test accuracies of the runs of both arms, and median milliseconds for one text.

    The baseline has a single accuracy, under scratch; committees have the mean of their best member's.
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
        return mean(self.pretrained) - mean(self.scratch) if self.scratch and self.pretrained else None


def spread(values: list[float]) -> str:
    """Mean and, over several runs, standard deviation and their number."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else ""
    return f"{mean(values):.3f} ± {stdev(values):.3f} ({len(values)} runs)"


def table(rows: list[TableRow]) -> str:
    """Markdown table, aligned so that it also reads well in a terminal."""
    lines = [["model", "parameters", "from scratch", "pre-trained", "gap", "latency"]]
    for row in rows:
        parameters = "" if row.parameters is None else f"{row.parameters:,}"
        gap = "" if row.gap is None else f"{row.gap:+.3f}"
        latency = "" if row.latency_ms is None else f"{row.latency_ms:.2f} ms"
        lines.append([row.model, parameters, spread(row.scratch), spread(row.pretrained), gap, latency])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    ]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([padded[0], rule, *padded[1:]])


def report_text(summary: Json, output: str) -> str:
    """What the command prints at its end, from the summary alone."""
    rows = [TableRow(**row) for row in summary["rows"]]
    task, pretraining, finetuning = summary["task"], summary["epochs"]["pretraining"], summary["epochs"]["finetuning"]
    committee = next(row for row in rows if row.best_member is not None)
    epochs = [
        f"{kind} {pretraining[kind]:g} of pre-training and {finetuning[kind]:g} of fine-tuning"
        for kind in ("shallow", "deep")
    ]
    lines = ["", table(rows), ""]
    if summary["smoke"]:
        lines += ["This was a smoke run: it shows that every step works; its accuracies mean nothing.", ""]
    texts = f"{task['train']} training texts; pre-trained on {summary['corpus']['texts']:,} other paragraphs"
    lines += [
        f"Accuracy on {task['test']} held-out paragraphs: which of {task['labels']} libraries does it document",
        f"({texts}); ± is one standard deviation.",
        f"Epochs: {', '.join(epochs)}.",
        f"Committees: {mean(committee.pretrained):.3f}; their best members: {committee.best_member:.3f} (means).",
        f"Plot: {output}/accuracy.png    Release folders: {output}/release/",
        "",
        "What to try next (after `. .venv/bin/activate`):",
        f'  tlm predict --model {output}/release/tlm-committee-docstrings --texts "Returns the eigenvalues."',
        "  tlm train-committee your.csv --text-column text --label-column label",
        "  accelerate launch scripts/pretrain.py --corpus wikipedia --size laptop --output-dir outputs/wikipedia",
    ]
    return "\n".join(lines)


def draw_plot(rows: list[TableRow], path: Path, *, smoke: bool) -> Path:
    """Bar chart of accuracy by model, one bar for each arm, every run as a dot; returns `path` (PNG)."""
    models = [row for row in rows if row.pretrained]
    title = "Which library does a docstring document?" + (" (smoke run: meaningless)" if smoke else "")
    width = 0.36
    bars = ((-0.5, "from scratch", "scratch", "#9aa5b1"), (0.5, "pre-trained", "pretrained", "#2f6db5"))
    with new_figure(path, title, ylabel="test accuracy", size=(7, 4)) as axes:
        for side, label, arm, colour in bars:
            places = [index + side * width for index in range(len(models))]
            accuracies = [getattr(row, arm) for row in models]
            axes.bar(places, [mean(values) for values in accuracies], width, label=label, color=colour)
            for place, values in zip(places, accuracies, strict=True):
                axes.scatter([place] * len(values), values, s=9, color="black", zorder=3, alpha=0.6, linewidths=0)
                above = (place, max(values))
                axes.annotate(f"{mean(values):.3f}", above, (0, 4), textcoords="offset points", ha="center", fontsize=8)
        for row in rows:
            if not row.pretrained:
                label = f"{row.model} {row.scratch[0]:.3f}"
                axes.axhline(row.scratch[0], color="#b5532f", linestyle="--", linewidth=1.2, label=label)
        axes.set_xticks(range(len(models)), [row.model for row in models])
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        axes.legend(frameon=False, loc="upper left", ncols=3, fontsize=8)
    return path
