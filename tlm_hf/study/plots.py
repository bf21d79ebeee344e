"""Plots of the findings from their rows (`report.with_texts`), one panel a task."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..runs.figure import drawing
from .findings import MIXED, committee_of
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP
from .plan_file import BASELINE_NAMES, SizePlan

BLUE, RED, GREY, GREEN, DARK, BLACK = "#2f6db5", "#b5532f", "#8a949e", "#3d8b5a", "#1c2f4a", "#333333"
COLOURS = {
    "pre-trained": BLUE, "equal steps": BLUE, "high overlap": BLUE, "from scratch": GREY, "random overlap": GREY,
    "equal epochs": RED, "low overlap": RED,
}  # fmt: skip
COLOURS |= dict(zip(BASELINE_NAMES.values(), 2 * ("#b8860b", "#7d5ba6"), strict=True))
ARM_NAMES = {"scratch": "from scratch", "pretrained": "pre-trained"}
ACCURACY, GAPS = "test accuracy (%), 95% intervals", "gap (points), 95% intervals"
MARKS = ("s", "x", "P", "v", "*", "p")
"""Of committees of several recipes, and of single members of further recipes."""


@dataclass(frozen=True)
class Panel:
    """One task's part of a plot: its rows of the finding, its baselines, milliseconds by model and members."""

    axes: Any
    rows: pd.DataFrame
    baselines: pd.DataFrame
    plan: SizePlan
    times: dict[tuple[str, int], float]

    def select(self, **values: Any) -> pd.DataFrame:
        """The rows with these values."""
        rows = self.rows
        for column, value in values.items():
            rows = rows[rows[column] == value]
        return rows

    def draw(self, rows: pd.DataFrame, x: Iterable[float], labels: Iterable[str], mark: str = "o-") -> None:
        """Points with their intervals, a line for each label."""
        plan, marks = self.plan, iter(MARKS)
        own = {
            committee_of(plan.first_member): BLUE,
            committee_of(plan.longer_name): DARK,
            plan.committee.reference: RED,
        }
        for label, part in rows.assign(place=list(x), label=list(labels)).groupby("label", sort=False):
            values = 100 * part["estimate"]
            errors = [(values - 100 * part["low"]).clip(lower=0), (100 * part["high"] - values).clip(lower=0)]
            colour = (COLOURS | own).get(str(label))
            style = {"fmt": mark, "color": colour} if colour else {"fmt": next(marks), "color": GREEN}
            self.axes.errorbar(part["place"], values, errors, capsize=3, label=label, **style)

    def draw_baselines(self, remark: str = "") -> None:
        """Dashed lines; the remark follows their names."""
        for row in self.baselines.itertuples():
            style = {"color": COLOURS[row.model], "linestyle": "--", "linewidth": 1}
            self.axes.axhline(100 * row.estimate, label=row.model + remark, **style)

    def write(self, rows: pd.DataFrame, names: Iterable[str]) -> None:
        """Differences with their intervals as text in a corner: bars cannot show what is paired."""
        lines = [f"{name}: {points}" for name, points in zip(names, rows["points"], strict=True)]
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
    rows = panel.select(measure="accuracy")
    x = [models.index(row.model) + (0.12 if row.x == "pretrained" else -0.12) for row in rows.itertuples()]
    panel.draw(rows, x, rows["x"].map(ARM_NAMES), "o")
    panel.draw_baselines()
    panel.axes.set_xlim(-0.6, len(models) - 0.4)
    panel.axes.set_xticks(range(len(models)), [model.replace(" of ", " of\n") for model in models])


def _corpus_size(panel: Panel) -> None:
    gaps, rises = panel.select(measure="gap"), panel.select(measure="gap per doubling")
    labels = gaps["model"].str.split(", ").str[-1]
    # The two are shifted apart, or one interval hides the other.
    panel.draw(gaps, gaps["x"] * labels.map({"equal steps": 0.98, "equal epochs": 1.02}), labels)
    panel.axes.axhline(0, color=BLACK, linewidth=0.6)
    panel.axes.set_xscale("log", base=2)
    sizes = panel.plan.corpus_size.num_texts
    panel.axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
    panel.write(rises, rises["model"].str.split(", ").str[-1] + ", a doubling")


def _overlap(panel: Panel) -> None:
    gaps, differences = panel.select(measure="gap"), panel.select(measure="difference")
    panel.draw(gaps, gaps["x"], gaps["model"].str.split(", ").str[-1], "o")
    panel.axes.axhline(0, color=BLACK, linewidth=0.6)
    panel.write(differences, differences["x"])


def _committee(panel: Panel) -> None:
    axes, reference = panel.axes, panel.plan.committee.reference
    accuracies = panel.select(measure="accuracy")
    is_single = accuracies["model"].isin([reference, *panel.plan.committee.members])
    rows = accuracies[~is_single]
    panel.draw(rows, rows["x"], rows["model"].map(_short))
    for row in panel.select(measure="accuracy", model=reference).itertuples():
        axes.axhline(100 * row.estimate, color=RED, label=f"{reference}, pre-trained")
        axes.axhspan(100 * row.low, 100 * row.high, color=RED, alpha=0.1, linewidth=0)
    for x in panel.select(measure="smallest that is not worse")["x"]:
        axes.axvline(x, color=BLACK, linestyle=":", label=f"from here on not worse than {reference} (paired)")
    panel.draw_baselines()
    axes.set_xticks(range(1, max(rows["x"], default=1) + 1))


def _latency(panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes, accuracies = panel.axes, panel.select(measure="accuracy")
    keys = list(zip(accuracies["timed_as"], accuracies["x"], strict=True))
    rows = accuracies[[key in panel.times for key in keys]]
    panel.draw(rows, [panel.times[key] for key in keys if key in panel.times], rows["model"].map(_short))
    panel.draw_baselines(", not timed")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(model: str) -> str:
    """The model's name in a legend."""
    return "mixed: one of each recipe" if model.startswith(MIXED) else model


PLOTS: dict[str, tuple[str, str, str, Callable[[Panel], None]]] = {
    "gap.png": (GAP, "", ACCURACY, _gap),
    "corpus_size.png": (CORPUS_SIZE, "pre-training texts", GAPS, _corpus_size),
    "overlap.png": (OVERLAP, "divergence from the task (bits): left is more overlap", GAPS, _overlap),
    "committee.png": (COMMITTEE, "members", ACCURACY, _committee),
    "latency.png": (COMMITTEE, "milliseconds for one text", ACCURACY, _latency),
}
"""By file the finding, the titles of the axes, and what draws a panel."""
