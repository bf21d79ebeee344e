"""Plots of the four findings from their rows (see `findings`)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from .findings import Row
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP
from .plan_file import SizePlan
from .report_sentences import points

BLUE, RED, GREY, GREEN, VIOLET, AMBER = "#2f6db5", "#b5532f", "#8a949e", "#3d8b5a", "#7d5ba6", "#b8860b"
DARK = "#1c2f4a"
BASELINE_COLOURS = (AMBER, VIOLET)
METADATA = {"Software": None}
"""PNG files carry no version, so that equal rows give equal bytes."""
MIXED = "mixed: one each of {} recipes"
ACCURACY = "test accuracy (%), 95% intervals"
OTHERS = ("x", "P", "v", "*", "p")
"""Marks of single members of further recipes."""
TICKS = (1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
"""Milliseconds that a logarithmic axis may name."""


def draw_plots(rows: list[Row], latency: list[dict[str, Any]], plan: SizePlan, folder: Path) -> list[str]:
    """Draw `gap.png`, `corpus_size.png`, `overlap.png`, `committee.png` and `latency.png` into a folder.

    Returns:
        The names of those that were drawn: a plot whose finding has no row yet is left out, and an old one removed.
    """
    of = {name: [row for row in rows if row["finding"] == name] for name in {row["finding"] for row in rows}}
    tasks, baselines = list(plan.tasks), of.get(BASELINES, [])
    gaps = [row for row in of.get(GAP, []) if row["measure"] == "gap"]
    makers: dict[str, Callable[[Path], None] | None] = {
        "gap.png": (lambda path: _gap(of[GAP], baselines, tasks, list(plan.gap_models()), path)) if gaps else None,
        "corpus_size.png": (lambda path: _corpus(of[CORPUS_SIZE], tasks, path)) if CORPUS_SIZE in of else None,
        "overlap.png": (lambda path: _overlap(of[OVERLAP], tasks, path)) if OVERLAP in of else None,
        "committee.png": (
            (lambda path: _committee(of[COMMITTEE], baselines, tasks, plan, path)) if COMMITTEE in of else None
        ),
        "latency.png": (
            (lambda path: _latency(of[COMMITTEE], latency, baselines, tasks, plan, path))
            if COMMITTEE in of and latency
            else None
        ),
    }
    for name, draw in makers.items():
        if draw is None:
            (folder / name).unlink(missing_ok=True)
        else:
            draw(folder / name)
    return [name for name, draw in makers.items() if draw is not None]


@contextmanager
def _panels(tasks: Sequence[str], path: Path, ylabel: str) -> Iterator[Any]:
    """One panel a task, saved at the end with a shared legend."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(tasks), figsize=(max(7.0, 4.2 * len(tasks)), 3.9), layout="constrained", squeeze=False
    )
    for axes, task in zip(panels[0], tasks, strict=True):
        axes.set_title(task)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel(ylabel)
    yield panels[0]
    entries: dict[str, Any] = {}
    for axes in panels[0]:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=min(4, len(entries)), frameon=False,
            fontsize=9,
        )  # fmt: skip
    figure.savefig(path, dpi=120, metadata=METADATA)
    plt.close(figure)


def _errors(rows: Sequence[Row]) -> tuple[list[float], list[list[float]]]:
    """Values in percent, and the lengths of their intervals downwards and upwards."""
    values = [100 * row["estimate"] for row in rows]
    return values, [
        [max(0.0, 100 * (row["estimate"] - row["low"])) for row in rows],
        [max(0.0, 100 * (row["high"] - row["estimate"])) for row in rows],
    ]


def _lines(axes: Any, baselines: list[Row], task: str, remark: str = "") -> None:
    """The baselines as dashed lines; a remark stands behind their names."""
    names = list(dict.fromkeys(row["model"] for row in baselines))
    for row in baselines:
        if row["task"] == task:
            colour = BASELINE_COLOURS[names.index(row["model"]) % len(BASELINE_COLOURS)]
            axes.axhline(100 * row["estimate"], color=colour, linestyle="--", linewidth=1, label=row["model"] + remark)


def _say(axes: Any, rows: Sequence[Row], words: Sequence[str]) -> None:
    """Differences with their intervals as text in a corner: bars cannot show what is paired."""
    lines = [f"{name} {points(row)}" for name, row in zip(words, rows, strict=True)]
    axes.annotate("\n".join(lines), (0.03, 0.98), xycoords="axes fraction", va="top", fontsize=8)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.12 * len(lines) * (high - low))


def _gap(rows: list[Row], baselines: list[Row], tasks: list[str], recipes: list[str], path: Path) -> None:
    arms = (("scratch", GREY, "from scratch"), ("pretrained", BLUE, "pre-trained"))
    with _panels(tasks, path, ACCURACY) as panels:
        for axes, task in zip(panels, tasks, strict=True):
            axes.set_xlim(-0.6, len(recipes) - 0.4)
            for place, recipe in enumerate(recipes):
                found = False
                for offset, (arm, colour, name) in enumerate(arms):
                    for row in rows:
                        asked = (row["task"], row["model"], row["x"], row["measure"])
                        if asked != (task, recipe, arm, "accuracy"):
                            continue
                        found = True
                        x, (values, errors) = place + 0.24 * (offset - 0.5), _errors([row])
                        axes.errorbar([x], values, errors, fmt="o", color=colour, capsize=3, label=name)
                        count = row["runs"][0]
                        axes.annotate(
                            f"{values[0]:.1f}\n{count} run{'s' if count > 1 else ''}", (x, values[0]),
                            (-5 if offset == 0 else 5, 0), textcoords="offset points", va="center",
                            ha="right" if offset == 0 else "left", color=colour, fontsize=8,
                        )  # fmt: skip
                if not found:
                    axes.annotate("not\nmeasured", (place, 0.5), xycoords=("data", "axes fraction"), ha="center",
                                  color=GREY, fontsize=8)  # fmt: skip
            _lines(axes, baselines, task)
            axes.set_xticks(range(len(recipes)), [recipe.replace(" of ", " of\n") for recipe in recipes])


def _corpus(rows: list[Row], tasks: list[str], path: Path) -> None:
    with _panels(tasks, path, "gap (points), 95% intervals") as panels:
        for axes, task in zip(panels, tasks, strict=True):
            rises: dict[str, Row] = {}
            for equal, colour in (("steps", BLUE), ("epochs", RED)):
                mine = [row for row in rows if row["task"] == task and row["model"].endswith(f"equal {equal}")]
                there = [row for row in mine if row["measure"] == "gap"]
                rises |= {f"equal {equal}, a doubling:": row for row in mine if row["x"] == "slope"}
                if there:
                    values, errors = _errors(there)
                    shift = 0.98 if equal == "steps" else 1.02  # beside each other, or one bar hides the other
                    axes.errorbar(
                        [shift * row["x"] for row in there], values, errors, fmt="o-", color=colour, capsize=3,
                        label=f"equal {equal}",
                    )  # fmt: skip
            axes.axhline(0, color="#333333", linewidth=0.6)
            axes.set_xscale("log", base=2)
            sizes = sorted({row["x"] for row in rows if row["measure"] == "gap"})
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
            axes.set_xlabel("pre-training texts")
            _say(axes, list(rises.values()), list(rises))


def _overlap(rows: list[Row], tasks: list[str], path: Path) -> None:
    colours = {"high": BLUE, "random": GREY, "low": RED}
    with _panels(tasks, path, "gap (points), 95% intervals") as panels:
        for axes, task in zip(panels, tasks, strict=True):
            for row in rows:
                if row["task"] == task and row["measure"] == "gap":
                    kind = row["model"].split(", ")[1]
                    values, errors = _errors([row])
                    colour = colours[kind.split()[0]]
                    axes.errorbar([row["x"]], values, errors, fmt="o", color=colour, capsize=3, label=kind)
            axes.axhline(0, color="#333333", linewidth=0.6)
            axes.set_xlabel("divergence from the task (bits): left is more overlap")
            differences = [row for row in rows if row["task"] == task and row["measure"] == "difference"]
            _say(axes, differences, [row["x"] + ":" for row in differences])


def _committee(rows: list[Row], baselines: list[Row], tasks: list[str], plan: SizePlan, path: Path) -> None:
    first, reference = plan.first_member, plan.committee["reference"]
    with _panels(tasks, path, ACCURACY) as panels:
        for axes, task in zip(panels, tasks, strict=True):
            mine = [row for row in rows if row["task"] == task and row["measure"] == "accuracy"]
            curve = [row for row in mine if row["model"] == f"committee of {first}"]
            if curve:
                places = [row["x"] for row in curve]
                axes.fill_between(
                    places, [100 * row["low"] for row in curve], [100 * row["high"] for row in curve], color=BLUE,
                    alpha=0.18, linewidth=0,
                )  # fmt: skip
                axes.plot(
                    places, [100 * row["estimate"] for row in curve], "o-", color=BLUE, label=f"committee of {first}"
                )
            longer = [row for row in mine if row["model"] == f"committee of {plan.longer_name}"]
            if longer:
                shifted = [row["x"] + 0.08 for row in longer]  # beside the band, or one interval hides the other
                axes.errorbar(shifted, *_errors(longer), fmt="^-", color=DARK, capsize=3, label=longer[0]["model"])
            for row in mine:
                if row["model"] == reference:
                    axes.axhline(100 * row["estimate"], color=RED, label=f"{reference}, pre-trained")
                    axes.axhspan(100 * row["low"], 100 * row["high"], color=RED, alpha=0.1, linewidth=0)
                elif row["model"] == "all members" or row["model"].startswith("mixed"):
                    label = "all members" if row["model"] == "all members" else MIXED.format(row["x"])
                    marker = "D" if row["model"] == "all members" else "s"
                    axes.errorbar([row["x"]], *_errors([row]), fmt=marker, color=GREEN, capsize=3, label=label)
            for row in rows:
                if row["task"] == task and row["measure"] == "smallest that is not worse":
                    axes.axvline(
                        row["x"], color="#333333", linestyle=":", linewidth=1,
                        label=f"from here on not worse than {reference} (paired)",
                    )  # fmt: skip
            _lines(axes, baselines, task)
            most = max((row["x"] for row in mine), default=1)
            axes.set_xticks(range(1, most + 1))
            axes.set_xlabel("members")


def _latency(
    rows: list[Row], latency: list[dict[str, Any]], baselines: list[Row], tasks: list[str], plan: SizePlan, path: Path
) -> None:
    from matplotlib.ticker import NullLocator

    first, reference = plan.first_member, plan.committee["reference"]
    times = {(row["model"], row["members"]): row["milliseconds"] for row in latency if row["batch_size"] == 1}
    marks = dict(zip(list(plan.committee["members"])[1:], cycle(OTHERS), strict=False))
    with _panels(tasks, path, "test accuracy (%)") as panels:
        for axes, task in zip(panels, tasks, strict=True):
            mine = [row for row in rows if row["task"] == task and row["measure"] == "accuracy"]
            shown: list[float] = []
            # More steps of pre-training change nothing of the time that an answer takes.
            for members, mark, colour, below in ((first, "o-", BLUE, -13), (plan.longer_name, "^-", DARK, 6)):
                line = [
                    (times[first, row["x"]], 100 * row["estimate"], row["x"])
                    for row in mine
                    if row["model"] == f"committee of {members}" and (first, row["x"]) in times
                ]
                if line:
                    x, y, counts = zip(*line, strict=True)
                    axes.plot(x, y, mark, color=colour, label=f"committees of {members}")
                    for place, count in enumerate(counts):
                        axes.annotate(str(count), (x[place], y[place]), (0, below), textcoords="offset points",
                                      ha="center", fontsize=8, color=colour)  # fmt: skip
                    shown += x
            for row in mine:
                of_mixed = row["model"].startswith("mixed")
                key = ("mixed", row["x"]) if of_mixed else (row["model"], 1)
                if key not in times or row["model"] == first:
                    continue
                marker, colour, label = marks.get(row["model"], OTHERS[0]), GREEN, f"one {row['model']}"
                if row["model"] == reference:
                    marker, colour, label = "^", RED, f"stock {reference}"
                elif of_mixed:
                    marker, label = "s", MIXED.format(row["x"])
                axes.plot([times[key]], [100 * row["estimate"]], marker, color=colour, label=label)
                shown.append(times[key])
            _lines(axes, baselines, task, ", not timed")
            axes.set_xscale("log")
            axes.margins(0.12, 0.14)
            if shown:
                ticks = [tick for tick in TICKS if 0.8 * min(shown) <= tick <= 1.25 * max(shown)]
                axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("milliseconds for one text")
