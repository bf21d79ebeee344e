"""Table, plot and closing lines of the quickstart."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from ..runs.atomic_files import Json
from ..runs.figure import new_figure


@dataclass
class TableRow:
    """One line of the table: test accuracies of the runs of both arms (the baseline's under scratch), milliseconds."""

    model: str
    parameters: int | None
    scratch: list[float]
    pretrained: list[float]
    latency_ms: float | None

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
        numbers = (row.parameters, "{:,}"), (row.gap, "{:+.3f}"), (row.latency_ms, "{:.2f} ms")
        parameters, gap, latency = ("" if value is None else form.format(value) for value, form in numbers)
        lines.append([row.model, parameters, spread(row.scratch), spread(row.pretrained), gap, latency])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([f"| {padded[0]} |", f"|{rule}|", *(f"| {line} |" for line in padded[1:])])


def report_text(summary: Json, output: str) -> str:
    """What the command prints at its end, from the summary alone."""
    rows = [TableRow(**row) for row in summary["rows"]]
    single, committee, baseline, task, scale = rows[0], rows[2], rows[-1], summary["task"], summary["scale"]
    above = 100 * (mean(committee.pretrained) - mean(baseline.scratch))
    meaning = (
        f"Pre-training changes the accuracy of a single {single.model} by {100 * (single.gap or 0):+.1f} points; the "
        f"{committee.model} is {abs(above):.1f} points {'above' if above > 0 else 'below'} the {baseline.model}."
    )
    if summary["smoke"]:
        meaning = "This was a smoke run: it shows that every step works; its accuracies mean nothing."
    busy = ["Latency is unreliable: other programs used this machine while it was measured."] * summary["is_busy"]
    texts = f"{task['train']:,} training texts; pre-trained on {summary['corpus']['texts']:,} other paragraphs"
    lines = [
        *("", table(rows), "", *textwrap.wrap(meaning, 110), *busy, ""),
        f"Accuracy on {task['test']} held-out paragraphs: which of {task['labels']} libraries does it document",
        f"({texts}); ± is one standard deviation.",
        f"Pre-training: {scale['pretraining_steps']} steps; fine-tuning: {scale['finetuning_epochs']:g} epochs. "
        "Latency: one text, one thread.",
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
    models, baseline = [row for row in rows if row.pretrained], rows[-1]
    title = "Which library does a docstring document?" + (" (smoke run: meaningless)" if smoke else "")
    with new_figure(path, title, ylabel="test accuracy", size=(7, 4)) as axes:
        for shift, label, arm, colour in (
            (-0.18, "from scratch", "scratch", "#9aa5b1"),
            (0.18, "pre-trained", "pretrained", "#2f6db5"),
        ):
            runs = {place + shift: getattr(row, arm) for place, row in enumerate(models) if getattr(row, arm)}
            bars = axes.bar(list(runs), [mean(values) for values in runs.values()], 0.36, label=label, color=colour)
            axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=8)
            for place, values in runs.items():
                axes.scatter([place] * len(values), values, s=9, color="black", zorder=3, alpha=0.6, linewidths=0)
        label = f"{baseline.model} {baseline.scratch[0]:.3f}"
        axes.axhline(baseline.scratch[0], color="#b5532f", linestyle="--", linewidth=1.2, label=label)
        axes.set_xticks(range(len(models)), [row.model for row in models])
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, loc="upper left", ncols=3, fontsize=8)
    return path
