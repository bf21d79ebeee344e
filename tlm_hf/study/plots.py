"""Plots of the four findings from their rows (`findings`), one panel a task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.overlap_subsets import KINDS
from ..runs.atomic_files import Json
from ..runs.figure import drawing
from .estimates import Row
from .findings import ALL_MEMBERS, BASELINE_NAMES, MIXED, committee_of
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP
from .plan_file import SizePlan

BLUE, RED, GREY, GREEN, DARK, BLACK = "#2f6db5", "#b5532f", "#8a949e", "#3d8b5a", "#1c2f4a", "#333333"
BASELINE_COLOURS = dict(zip(BASELINE_NAMES.values(), ("#b8860b", "#7d5ba6"), strict=True))
ACCURACY, GAPS = "test accuracy (%), 95% intervals", "gap (points), 95% intervals"
SINGLE_MARKS = ("x", "P", "v", "*", "p")
"""Of single members of further recipes."""
Times = dict[tuple[str | None, int], float]
"""Milliseconds by model and members."""


@dataclass(frozen=True)
class Panel:
    """One task's part of a plot: its rows of the finding, its baselines, milliseconds by model and members."""

    axes: Any
    rows: list[Row]
    baselines: list[Row]
    plan: SizePlan
    times: Times

    def select(self, measure: str, **values: Any) -> list[Row]:
        """The rows of a measure with these values."""
        rows = [row for row in self.rows if row.measure == measure]
        return [row for row in rows if all(getattr(row, key) == value for key, value in values.items())]

    def draw_baselines(self, remark: str = "") -> None:
        """Dashed lines; the remark follows their names."""
        for row in self.baselines:
            style = {"color": BASELINE_COLOURS[row.model], "linestyle": "--", "linewidth": 1}
            self.axes.axhline(100 * row.estimate, label=row.model + remark, **style)

    def write(self, rows: dict[str, Row]) -> None:
        """Differences with their intervals as text in a corner: bars cannot show what is paired."""
        lines = [f"{name}: {row.points}" for name, row in rows.items()]
        self.axes.annotate("\n".join(lines), (0.03, 0.98), xycoords="axes fraction", va="top", fontsize=8)
        low, high = self.axes.get_ylim()
        self.axes.set_ylim(low, high + 0.12 * len(lines) * (high - low))


def draw_plots(rows: list[Row], latency: list[Json], plan: SizePlan, folder: Path) -> list[str]:
    """Draw a plot of each finding that has a row, remove old ones of the others; returns the names of those drawn."""
    times = {(row["model"], row["members"]): row["milliseconds"] for row in latency if row["batch_size"] == 1}
    plots: dict[str, tuple[str, str, Callable[[Panel], None]]] = {
        "gap.png": (GAP, ACCURACY, _gap),
        "corpus_size.png": (CORPUS_SIZE, GAPS, _corpus_size),
        "overlap.png": (OVERLAP, GAPS, _overlap),
        "committee.png": (COMMITTEE, ACCURACY, _committee),
        "latency.png": (COMMITTEE, "test accuracy (%)", _latency),
    }
    drawn = []
    for name, (finding, ylabel, draw) in plots.items():
        (folder / name).unlink(missing_ok=True)
        if any(row.finding == finding for row in rows) and (times or draw is not _latency):
            with drawing(folder / name):
                _draw(rows, finding, plan, times, ylabel, draw, folder / name)
                drawn.append(name)
    return drawn


def _draw(
    rows: list[Row], finding: str, plan: SizePlan, times: Times, ylabel: str, draw: Callable[[Panel], None], path: Path
) -> None:
    """One panel a task with a shared legend."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    width = max(7.0, 4.2 * len(plan.tasks))
    figure, panels = plt.subplots(1, len(plan.tasks), figsize=(width, 3.9), layout="constrained", squeeze=False)
    panels[0][0].set_ylabel(ylabel)
    entries: dict[str, Any] = {}
    for axes, task in zip(panels[0], plan.tasks, strict=True):
        axes.set_title(task)
        axes.spines[["top", "right"]].set_visible(False)
        own, baselines = (
            [row for row in rows if (row.finding, row.task) == (each, task)] for each in (finding, BASELINES)
        )
        draw(Panel(axes, own, baselines, plan, times))
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns = min(4, len(entries) or 1)
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    figure.savefig(path, dpi=120, metadata={"Software": None})  # without a version: equal rows give equal bytes
    plt.close(figure)


def _errors(rows: Sequence[Row]) -> tuple[list[float], list[list[float]]]:
    """Values in percent, and the lengths of their intervals downwards and upwards."""
    below = [max(0.0, 100 * (row.estimate - row.low)) for row in rows]
    above = [max(0.0, 100 * (row.high - row.estimate)) for row in rows]
    return [100 * row.estimate for row in rows], [below, above]


def _gap(panel: Panel) -> None:
    axes, models = panel.axes, panel.plan.gap_models
    axes.set_xlim(-0.6, len(models) - 0.4)
    arms = (("scratch", GREY, "from scratch", -1, "right"), ("pretrained", BLUE, "pre-trained", 1, "left"))
    for place, model in enumerate(models):
        for arm, colour, label, side, align in arms:
            for row in panel.select("accuracy", model=model, x=arm):
                x, (values, errors) = place + 0.12 * side, _errors([row])
                axes.errorbar([x], values, errors, fmt="o", color=colour, capsize=3, label=label)
                words = f"{values[0]:.1f}\n{row.runs[0]} run{'s' if row.runs[0] > 1 else ''}"
                style = {"va": "center", "ha": align, "color": colour, "fontsize": 8}
                axes.annotate(words, (x, values[0]), (5 * side, 0), textcoords="offset points", **style)
    panel.draw_baselines()
    axes.set_xticks(range(len(models)), [model.replace(" of ", " of\n") for model in models])


def _corpus_size(panel: Panel) -> None:
    axes, options = panel.axes, panel.plan.corpus_size
    rises: dict[str, Row] = {}
    # The two are shifted apart, or one interval hides the other.
    for equal, colour, shift in (("steps", BLUE, 0.98), ("epochs", RED, 1.02)):
        model = f"{options.recipe}, equal {equal}"
        gaps = panel.select("gap", model=model)
        if gaps:
            places, label = [shift * row.x for row in gaps], f"equal {equal}"
            axes.errorbar(places, *_errors(gaps), fmt="o-", color=colour, capsize=3, label=label)
        rises |= {f"equal {equal}, a doubling": row for row in panel.select("gap per doubling", model=model)}
    axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks(options.num_texts, [f"{size:,}" for size in options.num_texts], fontsize=8)
    axes.set_xlabel("pre-training texts")
    panel.write(rises)


def _overlap(panel: Panel) -> None:
    for kind, colour in zip(KINDS, (BLUE, GREY, RED), strict=True):
        label = f"{kind} overlap"
        for row in panel.select("gap", model=f"{panel.plan.overlap.recipe}, {label}"):
            panel.axes.errorbar([row.x], *_errors([row]), fmt="o", color=colour, capsize=3, label=label)
    panel.axes.axhline(0, color=BLACK, linewidth=0.6)
    panel.axes.set_xlabel("divergence from the task (bits): left is more overlap")
    panel.write({row.x: row for row in panel.select("difference")})


def _committee(panel: Panel) -> None:
    axes, plan, reference = panel.axes, panel.plan, panel.plan.committee.reference
    rows = panel.select("accuracy")
    curve = panel.select("accuracy", model=committee_of(plan.first_member))
    if curve:
        places = [row.x for row in curve]
        low, high = [100 * row.low for row in curve], [100 * row.high for row in curve]
        axes.fill_between(places, low, high, color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(places, [100 * row.estimate for row in curve], "o-", color=BLUE, label=curve[0].model)
    longer = panel.select("accuracy", model=committee_of(plan.longer_name))
    if longer:
        shifted = [row.x + 0.08 for row in longer]  # beside the band, or one interval hides the other
        axes.errorbar(shifted, *_errors(longer), fmt="^-", color=DARK, capsize=3, label=longer[0].model)
    for row in rows:
        if row.model == reference:
            axes.axhline(100 * row.estimate, color=RED, label=f"{reference}, pre-trained")
            axes.axhspan(100 * row.low, 100 * row.high, color=RED, alpha=0.1, linewidth=0)
        elif row.model == ALL_MEMBERS or row.timed_as == MIXED:
            marker, label = ("D", ALL_MEMBERS) if row.model == ALL_MEMBERS else ("s", _mixed(row))
            axes.errorbar([row.x], *_errors([row]), fmt=marker, color=GREEN, capsize=3, label=label)
    for row in panel.select("smallest that is not worse"):
        label = f"from here on not worse than {reference} (paired)"
        axes.axvline(row.x, color=BLACK, linestyle=":", linewidth=1, label=label)
    panel.draw_baselines()
    axes.set_xticks(range(1, max((row.x for row in rows), default=1) + 1))
    axes.set_xlabel("members")


def _mixed(row: Row) -> str:
    return f"mixed: one each of {row.x} recipes"


def _latency(panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes, plan, times = panel.axes, panel.plan, panel.times
    first = plan.first_member
    marks = dict(zip(list(plan.committee.members)[1:], SINGLE_MARKS, strict=False))
    timed = [row for row in panel.select("accuracy") if (row.timed_as, row.x) in times]
    for member, mark, colour, below in ((first, "o-", BLUE, -13), (plan.longer_name, "^-", DARK, 6)):
        line = [row for row in timed if row.model == committee_of(member)]
        if line:
            x, y = [times[row.timed_as, row.x] for row in line], [100 * row.estimate for row in line]
            axes.plot(x, y, mark, color=colour, label=f"committees of {member}")
            style = {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": colour}
            for row, *place in zip(line, x, y, strict=True):
                axes.annotate(str(row.x), place, (0, below), **style)
    for row in timed:
        marker, colour, label = marks.get(row.model, "x"), GREEN, f"one {row.model}"
        if row.model == plan.committee.reference:
            marker, colour, label = "^", RED, f"stock {row.model}"
        elif row.timed_as == MIXED:
            marker, label = "s", _mixed(row)
        elif row.timed_as == first:
            continue
        axes.plot([times[row.timed_as, row.x]], [100 * row.estimate], marker, color=colour, label=label)
    panel.draw_baselines(", not timed")
    axes.set_xscale("log")
    axes.margins(0.12, 0.14)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("milliseconds for one text")
