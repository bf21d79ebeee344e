"""Plots of the findings from their rows (`report.with_texts`), one panel a task."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..runs.figure import drawing
from .findings import SMALLEST
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP
from .plan_file import ARM_NAMES, BASELINE_NAMES, SizePlan

BLUE, RED, GREY, BLACK = "#2f6db5", "#b5532f", "#8a949e", "#333333"
COLOURS = dict.fromkeys(("pre-trained", "equal steps", "high overlap"), BLUE)
COLOURS |= dict.fromkeys(("from scratch", "random overlap"), GREY) | dict.fromkeys(("equal epochs", "low overlap"), RED)
COLOURS |= dict(zip(BASELINE_NAMES.values(), ("#b8860b", "#7d5ba6"), strict=True))
ACCURACY, GAPS = "test accuracy (%), 95% intervals", "gap (points), 95% intervals"


@dataclass(frozen=True)
class Panel:
    """One task's part of a plot: its rows of the finding, its baselines, milliseconds by model and members."""

    axes: Any
    rows: pd.DataFrame
    baselines: pd.DataFrame
    plan: SizePlan
    times: dict[tuple[str, int], float]

    def draw(self, rows: pd.DataFrame, x: Iterable[float], labels: Iterable[str], mark: str = "o-") -> None:
        """Points with their intervals, a line for each label."""
        for label, part in rows.assign(place=list(x), label=list(labels)).groupby("label", sort=False):
            values = 100 * part["estimate"]
            errors = [(values - 100 * part["low"]).clip(lower=0), (100 * part["high"] - values).clip(lower=0)]
            colour = COLOURS.get(str(label))
            self.axes.errorbar(part["place"], values, errors, capsize=3, label=label, fmt=mark, color=colour)

    def draw_baselines(self) -> None:
        """Dashed lines."""
        for row in self.baselines.itertuples():
            style = {"color": COLOURS[row.model], "linestyle": "--", "linewidth": 1}
            self.axes.axhline(100 * row.estimate, label=row.model, **style)

    def write(self, rows: pd.DataFrame, names: Iterable[str]) -> None:
        """Differences with their intervals as text in a corner: bars cannot show what is paired."""
        lines = [f"{name}: {points}" for name, points in zip(names, rows["text"], strict=True)]
        self.axes.annotate("\n".join(lines), (0.03, 0.98), xycoords="axes fraction", va="top", fontsize=8)
        low, high = self.axes.get_ylim()
        self.axes.set_ylim(low, high + 0.12 * len(lines) * (high - low))


def draw_plots(frame: pd.DataFrame, times: pd.DataFrame, plan: SizePlan, folder: Path) -> list[str]:
    """Draw a plot of each finding that has a row, remove old ones of the others; returns the names of those drawn."""
    from matplotlib.figure import Figure

    drawn = []
    one_text = times[times["batch_size"] == 1].set_index(["model", "members"])["milliseconds"].to_dict()
    for name, (finding, xlabel, ylabel, draw) in PLOTS.items():
        (folder / name).unlink(missing_ok=True)
        if not (frame["finding"] == finding).any() or (draw is _latency and not one_text):
            continue
        with drawing(folder / name):
            figure = Figure(figsize=(max(7.0, 4.2 * len(plan.tasks)), 3.9), layout="constrained")
            panels, entries = figure.subplots(1, len(plan.tasks), squeeze=False)[0], dict[str, Any]()
            panels[0].set_ylabel(ylabel)
            for axes, task in zip(panels, plan.tasks, strict=True):
                axes.set(title=task, xlabel=xlabel)
                axes.spines[["top", "right"]].set_visible(False)
                rows = frame[frame["task"] == task]
                draw(Panel(axes, rows[rows["finding"] == finding], rows[rows["finding"] == BASELINES], plan, one_text))
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                    entries.setdefault(label, handle)
            style = {"ncols": min(4, len(entries) or 1), "frameon": False, "fontsize": 9}
            figure.legend(list(entries.values()), list(entries), loc="outside lower center", **style)
            figure.savefig(folder / name, dpi=120, metadata={"Software": None})  # equal rows give equal bytes
            drawn.append(name)
    return drawn


def _gap(panel: Panel) -> None:
    models = panel.plan.gap_models
    rows = panel.rows[panel.rows["measure"].isin(ARM_NAMES.values())]
    shifts = rows["measure"].map({"pre-trained": 0.12, "from scratch": -0.12})
    panel.draw(rows, rows["model"].map(models.index) + shifts, rows["measure"], "o")
    panel.draw_baselines()
    panel.axes.set_xlim(-0.6, len(models) - 0.4)
    panel.axes.set_xticks(range(len(models)), [model.replace(" of ", " of\n") for model in models])


def _corpus_size(panel: Panel) -> None:
    kinds = panel.rows["model"].str.split(", ").str[-1]
    is_gap = panel.rows["measure"] == "gap"
    gaps, rises = panel.rows[is_gap], panel.rows[~is_gap]
    # The two are shifted apart, or one interval hides the other.
    panel.draw(gaps, gaps["x"] * kinds[is_gap].map({"equal steps": 0.98, "equal epochs": 1.02}), kinds[is_gap])
    panel.axes.axhline(0, color=BLACK, linewidth=0.6)
    panel.axes.set_xscale("log", base=2)
    sizes = panel.plan.corpus_size.num_texts
    panel.axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
    panel.write(rises, kinds[~is_gap] + ", a doubling")


def _overlap(panel: Panel) -> None:
    is_gap = panel.rows["measure"] == "gap"
    gaps, differences = panel.rows[is_gap], panel.rows[~is_gap]
    panel.draw(gaps, gaps["x"], gaps["model"].str.split(", ").str[-1], "o")
    panel.axes.axhline(0, color=BLACK, linewidth=0.6)
    panel.write(differences, differences["x"])


def _committee(panel: Panel) -> None:
    axes, reference = panel.axes, panel.plan.committee.reference
    rows = panel.rows[panel.rows["measure"] == "accuracy"]
    shown = rows[~rows["model"].isin([reference, *panel.plan.committee.members])]
    panel.draw(shown, shown["x"], shown["model"].str.split(":").str[0])
    for row in rows[rows["model"] == reference].itertuples():
        axes.axhline(100 * row.estimate, color=RED, label=f"{reference}, pre-trained")
        axes.axhspan(100 * row.low, 100 * row.high, color=RED, alpha=0.1, linewidth=0)
    for x in panel.rows.loc[panel.rows["measure"] == SMALLEST, "x"]:
        axes.axvline(x, color=BLACK, linestyle=":", label=f"from here on not worse than {reference} (paired)")
    panel.draw_baselines()
    axes.set_xticks(panel.plan.committee.counts)


def _latency(panel: Panel) -> None:
    rows = panel.rows[panel.rows["measure"] == "accuracy"]
    milliseconds = pd.Series(
        [panel.times.get(key) for key in zip(rows["timed_as"], rows["x"], strict=True)], rows.index
    )
    timed = milliseconds.notna()
    panel.draw(rows[timed], milliseconds[timed], rows.loc[timed, "model"].str.split(":").str[0])
    panel.draw_baselines()
    panel.axes.set_xscale("log")
    panel.axes.xaxis.set_major_formatter("{x:g}")
    panel.axes.xaxis.set_minor_formatter("")


PLOTS: dict[str, tuple[str, str, str, Callable[[Panel], None]]] = {
    "gap.png": (GAP, "", ACCURACY, _gap),
    "corpus_size.png": (CORPUS_SIZE, "pre-training texts", GAPS, _corpus_size),
    "overlap.png": (OVERLAP, "divergence from the task (bits): left is more overlap", GAPS, _overlap),
    "committee.png": (COMMITTEE, "members", ACCURACY, _committee),
    "latency.png": (COMMITTEE, "milliseconds for one text", ACCURACY, _latency),
}
"""By file the finding, the titles of the axes, and what draws a panel."""
