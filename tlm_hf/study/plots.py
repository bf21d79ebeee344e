"""Plots of the four findings from their rows (see `findings`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .findings import Row
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP, SizePlan

BLUE, RED, GREY, GREEN, VIOLET = "#2f6db5", "#b5532f", "#9aa5b1", "#3d8b5a", "#7d5ba6"
BASELINE_COLOURS = (GREY, VIOLET)
METADATA = {"Software": None}
"""PNG files carry no version, so that equal rows give equal bytes."""
MIXED = "mixed: one each of {} recipes"


def draw_plots(rows: list[Row], latency: list[dict[str, Any]], plan: SizePlan, folder: Path) -> None:
    """Draw `gap.png`, `corpus_size.png`, `overlap.png`, `committee.png` and `latency.png` into a folder.

    A plot whose finding has no row yet is left out.
    """
    of = {name: [row for row in rows if row["finding"] == name] for name in {row["finding"] for row in rows}}
    tasks, baselines = list(plan.tasks), of.get(BASELINES, [])
    if any(row["measure"] == "gap" for row in of.get(GAP, [])):
        there = {row["model"] for row in of[GAP]}
        recipes = [recipe for recipe in plan.gap["recipes"] if recipe in there]
        _gap(of[GAP], baselines, tasks, recipes, folder / "gap.png")
    if CORPUS_SIZE in of:
        _corpus(of[CORPUS_SIZE], tasks, folder / "corpus_size.png")
    if OVERLAP in of:
        _overlap(of[OVERLAP], tasks, folder / "overlap.png")
    if COMMITTEE in of:
        _committee(of[COMMITTEE], baselines, tasks, plan, folder / "committee.png")
        if latency:
            _latency(of[COMMITTEE], latency, baselines, tasks, plan, folder / "latency.png")


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


def _lines(axes: Any, baselines: list[Row], task: str) -> None:
    """The baselines as dashed lines."""
    names = list(dict.fromkeys(row["model"] for row in baselines))
    for row in baselines:
        if row["task"] == task:
            colour = BASELINE_COLOURS[names.index(row["model"]) % len(BASELINE_COLOURS)]
            axes.axhline(100 * row["estimate"], color=colour, linestyle="--", linewidth=1, label=row["model"])


def _gap(rows: list[Row], baselines: list[Row], tasks: list[str], recipes: list[str], path: Path) -> None:
    with _panels(tasks, path, "test accuracy (%)") as panels:
        for axes, task in zip(panels, tasks, strict=True):
            for offset, (arm, colour, name) in enumerate(
                (("scratch", GREY, "from scratch"), ("pretrained", BLUE, "pre-trained"))
            ):
                there = [
                    (place, row)
                    for place, recipe in enumerate(recipes)
                    for row in rows
                    if (row["task"], row["model"], row["x"]) == (task, recipe, arm)
                ]
                if there:
                    values, errors = _errors([row for _, row in there])
                    places = [place + 0.36 * (offset - 0.5) for place, _ in there]
                    axes.bar(places, values, 0.34, yerr=errors, color=colour, label=name, ecolor="#333333", capsize=3)
                    for place, value in zip(places, values, strict=True):
                        axes.annotate(f"{value:.1f}", (place, 0), (0, 4), textcoords="offset points", ha="center",
                                      color="white", fontsize=8)  # fmt: skip
            _lines(axes, baselines, task)
            axes.set_xticks(range(len(recipes)), recipes)


def _corpus(rows: list[Row], tasks: list[str], path: Path) -> None:
    with _panels(tasks, path, "gap (points)") as panels:
        for axes, task in zip(panels, tasks, strict=True):
            for equal, colour in (("steps", BLUE), ("epochs", RED)):
                there = [
                    row
                    for row in rows
                    if row["task"] == task and row["measure"] == "gap" and row["model"].endswith(f"equal {equal}")
                ]
                if there:
                    values, errors = _errors(there)
                    axes.errorbar(
                        [row["x"] for row in there], values, errors, fmt="o-", color=colour, capsize=3,
                        label=f"equal {equal}",
                    )  # fmt: skip
            axes.axhline(0, color="#333333", linewidth=0.6)
            axes.set_xscale("log", base=2)
            sizes = sorted({row["x"] for row in rows if row["measure"] == "gap"})
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
            axes.set_xlabel("pre-training texts")


def _overlap(rows: list[Row], tasks: list[str], path: Path) -> None:
    colours = {"high": BLUE, "random": GREY, "low": RED}
    with _panels(tasks, path, "gap (points)") as panels:
        for axes, task in zip(panels, tasks, strict=True):
            for row in rows:
                if row["task"] == task and row["measure"] == "gap":
                    kind = row["model"].split(", ")[1]
                    values, errors = _errors([row])
                    colour = colours[kind.split()[0]]
                    axes.errorbar([row["x"]], values, errors, fmt="o", color=colour, capsize=3, label=kind)
            axes.axhline(0, color="#333333", linewidth=0.6)
            axes.set_xlabel("divergence from the task (bits)")


def _committee(rows: list[Row], baselines: list[Row], tasks: list[str], plan: SizePlan, path: Path) -> None:
    first, reference = plan.first_member, plan.committee["reference"]
    with _panels(tasks, path, "test accuracy (%)") as panels:
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
            for row in mine:
                if row["model"] == reference:
                    axes.axhline(100 * row["estimate"], color=RED, label=f"{reference}, pre-trained")
                    axes.axhspan(100 * row["low"], 100 * row["high"], color=RED, alpha=0.1, linewidth=0)
                elif row["model"] in ("all members",) or row["model"].startswith("mixed"):
                    label = "all members" if row["model"] == "all members" else MIXED.format(row["x"])
                    marker = "D" if row["model"] == "all members" else "s"
                    axes.plot([row["x"]], [100 * row["estimate"]], marker, color=GREEN, label=label)
            _lines(axes, baselines, task)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_xlabel("members")


def _latency(
    rows: list[Row], latency: list[dict[str, Any]], baselines: list[Row], tasks: list[str], plan: SizePlan, path: Path
) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    first, reference = plan.first_member, plan.committee["reference"]
    times = {(row["model"], row["members"]): row["milliseconds"] for row in latency if row["batch_size"] == 1}
    with _panels(tasks, path, "test accuracy (%)") as panels:
        for axes, task in zip(panels, tasks, strict=True):
            mine = [row for row in rows if row["task"] == task and row["measure"] == "accuracy"]
            line = [
                (times[first, row["x"]], 100 * row["estimate"], row["x"])
                for row in mine
                if row["model"] == f"committee of {first}" and (first, row["x"]) in times
            ]
            if line:
                axes.plot(
                    [x for x, _, _ in line], [y for _, y, _ in line], "o-", color=BLUE, label=f"committees of {first}"
                )
                for x, y, count in line:
                    axes.annotate(str(count), (x, y), (4, -10), textcoords="offset points", fontsize=8, color=BLUE)
            for row in mine:
                if row["model"] == reference and (reference, 1) in times:
                    axes.plot([times[reference, 1]], [100 * row["estimate"]], "^", color=RED, label=reference)
                elif row["model"].startswith("mixed") and ("mixed", row["x"]) in times:
                    place = [times["mixed", row["x"]]], [100 * row["estimate"]]
                    axes.plot(*place, "s", color=GREEN, label=MIXED.format(row["x"]))
                elif (row["model"], 1) in times and row["model"] not in (reference, first):
                    axes.plot(
                        [times[row["model"], 1]],
                        [100 * row["estimate"]],
                        "x",
                        color=GREEN,
                        label="one member of another recipe",
                    )
            _lines(axes, baselines, task)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # powers of ten alone may leave none in sight
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("milliseconds for one text")
