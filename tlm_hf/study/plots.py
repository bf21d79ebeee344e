"""Plots of the findings from their rows (`report.with_texts`), one panel a task."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from ..runs.figure import drawing
from .findings import SMALLEST
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP
from .plan_file import ARM_NAMES, BASELINE_NAMES, SizePlan

BLUE, RED, GREY, BLACK = "#2f6db5", "#b5532f", "#8a949e", "#333333"
COLOURS = {"pre-trained": BLUE, "from scratch": GREY, "equal steps": BLUE, "equal epochs": RED}
COLOURS |= dict(zip(BASELINE_NAMES.values(), ("#b8860b", "#7d5ba6"), strict=True))


def draw_plots(frame: pd.DataFrame, plan: SizePlan, folder: Path) -> list[str]:
    """Draw a plot of each finding that has a row; returns the names of those drawn."""
    from matplotlib.figure import Figure

    drawn = []
    for name, (finding, xlabel, ylabel, draw) in PLOTS.items():
        if not (frame["finding"] == finding).any():
            continue
        with drawing(folder / name):
            figure = Figure(figsize=(max(7.0, 4.2 * len(plan.tasks)), 3.9), layout="constrained")
            panels, entries = figure.subplots(1, len(plan.tasks), squeeze=False)[0], dict[str, Any]()
            panels[0].set_ylabel(f"{ylabel}, 95% intervals")
            for axes, task in zip(panels, plan.tasks, strict=True):
                rows = frame[frame["task"] == task]
                axes.set(title=task, xlabel=xlabel)
                axes.spines[["top", "right"]].set_visible(False)
                draw(axes, rows[rows["finding"] == finding], plan)
                for row in rows[rows["finding"] == BASELINES].itertuples() if finding != CORPUS_SIZE else ():
                    style = {"color": COLOURS[row.model], "linestyle": "--", "linewidth": 1}
                    axes.axhline(100 * row.estimate, label=row.model, **style)
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                    entries.setdefault(label, handle)
            style = {"ncols": min(4, len(entries) or 1), "frameon": False, "fontsize": 9}
            figure.legend(list(entries.values()), list(entries), loc="outside lower center", **style)
            figure.savefig(folder / name, dpi=120, metadata={"Software": None})  # equal rows give equal bytes
            drawn.append(name)
    return drawn


def _points(axes: Any, rows: pd.DataFrame, x: Iterable[float], labels: Iterable[str], mark: str = "o-") -> None:
    """Points with their intervals, a line for each label."""
    for label, part in rows.assign(place=list(x), label=list(labels)).groupby("label", sort=False):
        values = 100 * part["estimate"]
        errors = [(values - 100 * part["low"]).clip(lower=0), (100 * part["high"] - values).clip(lower=0)]
        axes.errorbar(part["place"], values, errors, capsize=3, label=label, fmt=mark, color=COLOURS.get(str(label)))


def _gap(axes: Any, rows: pd.DataFrame, plan: SizePlan) -> None:
    models = plan.gap_models
    rows = rows[rows["measure"].isin(ARM_NAMES.values())]
    shifts = rows["measure"].map({"pre-trained": 0.12, "from scratch": -0.12})
    _points(axes, rows, rows["model"].map(models.index) + shifts, rows["measure"], "o")
    axes.set_xlim(-0.6, len(models) - 0.4)
    axes.set_xticks(range(len(models)), [model.replace(" of ", " of\n") for model in models])


def _corpus_size(axes: Any, rows: pd.DataFrame, plan: SizePlan) -> None:
    gaps = rows[rows["measure"] == "gap"]
    kinds = gaps["model"].str.split(", ").str[-1]
    # The two are shifted apart, or one interval hides the other.
    _points(axes, gaps, gaps["x"] * kinds.map({"equal steps": 0.98, "equal epochs": 1.02}), kinds)
    axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_xscale("log", base=2)
    sizes = plan.corpus_size.num_texts
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)


def _committee(axes: Any, rows: pd.DataFrame, plan: SizePlan) -> None:
    reference, accuracies = plan.committee.reference, rows[rows["measure"] == "accuracy"]
    shown = accuracies[~accuracies["model"].isin([reference, *plan.committee.members])]
    _points(axes, shown, shown["x"], shown["model"].str.split(":").str[0])
    for row in accuracies[accuracies["model"] == reference].itertuples():
        axes.axhline(100 * row.estimate, color=RED, label=f"{reference}, pre-trained")
        axes.axhspan(100 * row.low, 100 * row.high, color=RED, alpha=0.1, linewidth=0)
    for x in rows.loc[rows["measure"] == SMALLEST, "x"]:
        axes.axvline(x, color=BLACK, linestyle=":", label=f"from here on not worse than {reference} (paired)")
    axes.set_xticks(plan.committee.counts)


PLOTS: dict[str, tuple[str, str, str, Callable[[Any, pd.DataFrame, SizePlan], None]]] = {
    "gap.png": (GAP, "", "test accuracy (%)", _gap),
    "corpus_size.png": (CORPUS_SIZE, "pre-training texts", "gap (points)", _corpus_size),
    "committee.png": (COMMITTEE, "members", "test accuracy (%)", _committee),
}
"""By file the finding, the titles of the axes, and what draws a panel."""
