"""`tlm study report`: tables and plots of the findings from the records alone; twice gives equal bytes."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
import pandas as pd

from ..data.overlap import MIN_COUNT
from ..errors import UserError
from ..runs.atomic_files import Json, write_json, write_text
from ..runs.figure import new_figure
from ..runs.provenance import portable_path
from .execute import Record, timed_seconds
from .findings import NOT_WORSE, SMALLEST, Findings, Row, overlap_measures
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, LABELS, OVERLAP, Planner
from .plan_file import ARM_NAMES, BASELINE_NAMES, SizePlan
from .study import State, StudyArguments, check_arguments, read_state

REPORT_FILE, ROWS_FILE = "REPORT.md", "rows.json"
TEMPLATE = Path(__file__).with_name("report.md.jinja")
MEASURES = {"jensen_shannon_bits": "divergence, bits", "type_coverage": "types covered"}
MEASURES |= {"occurrence_coverage": "occurrences covered"}
BLUE, RED, GREY, BLACK = "#2f6db5", "#b5532f", "#8a949e", "#333333"
Colours = dict[str, str]
COLOURS: Colours = {"pre-trained": BLUE, "from scratch": GREY, "equal steps": BLUE, "equal epochs": RED}
COLOURS |= dict(zip(BASELINE_NAMES.values(), ("#b8860b", "#7d5ba6"), strict=True))


def write_report(arguments: StudyArguments) -> Json:
    """Write `REPORT.md`, `rows.json` and the plots into the results folder; returns the page's path and the rows."""
    plan, arguments = check_arguments(arguments), replace(arguments, tasks=[], recipes=[])
    state, folder = read_state(arguments, plan), arguments.results_folder
    if not state.records:
        raise UserError(f"{folder} has no finished run: start with `tlm study run --size {arguments.size}`.")
    rows = Findings(state.planner, state.records, folder / "runs").rows()
    if arguments.findings:
        compared = [BASELINES] if GAP in arguments.findings else []
        rows = [row for row in rows if row.finding in (*arguments.findings, *compared)]
    timed = state.records.get(state.planner.latency.name)
    latency = timed.results["rows"] if timed else []
    frame, results = with_texts(rows), [record.results for record in state.records.values()]
    machines = [result["machine"] for result in results]
    processors = {f"{m['processor']}, {m['cores']} cores, {m.get('accelerator') or 'no GPU'}" for m in machines}
    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=arguments.size,
        command=arguments.command("report"),
        plan=plan,
        state=state,
        tables=write_tables(frame, latency, state),
        drawn=draw_plots(frame, plan, folder),
        hours=sum(timed_seconds(state.records.values())) / 3600,
        machines=sorted(processors),
        commits=sorted({re.sub(r"^(\w{12})\w*", r"\1", result["commit"] or "none") for result in results}),
        margin=NOT_WORSE,
        min_count=MIN_COUNT,
    )
    write_text(folder / REPORT_FILE, page)
    written = {"size": arguments.size, "reference": plan.committee.reference, "rows": [asdict(row) for row in rows]}
    write_json(folder / ROWS_FILE, {**written, "latency": latency})
    return {"report": portable_path(str(folder / REPORT_FILE)), "rows": written["rows"]}


def with_texts(rows: list[Row]) -> pd.DataFrame:
    """The rows with their values as text: percent or percentage points, the t-interval, the runs of each side."""
    lines = []
    for row in rows:
        text = f"{100 * row.estimate:+.1f} [{bound(row.low)}, {bound(row.high)}]"
        if row.measure in ("accuracy", *ARM_NAMES.values()):
            text = f"{100 * row.estimate:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        t = "one run" if row.t_low is None or row.t_high is None else f"[{bound(row.t_low)}, {bound(row.t_high)}]"
        texts = {"text": text, "t-interval": t, "runs": " and ".join(map(str, row.runs))}
        lines.append({**asdict(row), **texts, "members": "" if row.x is None else str(row.x)})
    frame = pd.DataFrame(lines, columns=[*Row.__annotations__, "text", "t-interval", "members"])
    return frame.astype({"x": object})  # text, numbers and None


def bound(share: float) -> str:
    """An end of an interval in percentage points; with more digits where it would round to 0."""
    return f"{100 * share:+.1f}" if abs(100 * share) >= 0.05 else f"{100 * share:+.3f}"


def write_tables(frame: pd.DataFrame, latency: list[Json], state: State) -> dict[str, str]:
    """The report's tables in Markdown by name; one without rows is empty."""
    times = pd.DataFrame(latency, columns=["model", "members", "batch_size", "milliseconds"])
    gap, sizes, overlap, committee, labels, baselines = (
        frame[frame["finding"] == name] for name in (GAP, CORPUS_SIZE, OVERLAP, COMMITTEE, LABELS, BASELINES)
    )
    by_size = [f"{int(row.x):,} texts" if row.measure == "gap" else row.measure for row in sizes.itertuples()]
    labels = labels.rename(columns={"members": "labels"})
    is_smallest, index = committee["measure"] == SMALLEST, ["task", "model", "members"]
    one_text = times.query("batch_size == 1").astype({"members": object}).set_index(["model", "members"]).milliseconds
    costs = committee.assign(frozen=committee["timed_as"] + ", frozen").dropna(subset="seconds")
    for column, timed in (("ms", "timed_as"), ("ms, frozen", "frozen")):
        costs = costs.join(one_text.rename(column), on=[timed, "x"])
    formats = {"calibration": "{:.3f}", "seconds": "{:,.0f}", "ms": "{:.2f}", "ms, frozen": "{:.2f}"}
    costs = costs.assign(**{name: costs[name].map(form.format) for name, form in formats.items()})
    costs = costs.set_index(index)[list(formats)].replace("nan", "")
    costs = costs.loc[:, (costs != "").any()]  # without a record of latency, or one from before tables were timed
    of_gap = baselines if len(gap) else baselines[:0]
    tested = f"difference from {state.planner.plan.committee.reference}"
    is_single = committee["model"].str.startswith("committee of one ") & (committee["x"] == 1)  # no committee yet
    compared = _pivot(committee[~is_smallest & ~is_single], index, tested)
    compared = compared.rename(columns={"t-interval": f"{tested}, t-interval"})
    shown = times.pivot_table("milliseconds", ["model", "members"], "batch_size", sort=False).map("{:.2f}".format)
    tables = {
        "models": _models(state.planner, state.records),
        "gap": _pivot(pd.concat([gap, of_gap.assign(measure=ARM_NAMES["pretrained"])]), tested="gap"),
        "corpus_size": _pivot(sizes.assign(measure=by_size), tested="gap per doubling"),
        "overlap": _overlap(overlap, state.planner, state.records),
        "labels": _pivot(labels, ("task", "model", "labels"), tested="gap"),
        "committee": compared.join(costs),
        "smallest": _pivot(committee[is_smallest], index, tested=SMALLEST),
        "latency": shown,
        "rates": _rates(state.planner),
    }
    pages = {}
    for name, table in tables.items():
        cells = table.reset_index().fillna("").astype(str)
        lines = [list(cells.columns), ["---"] * cells.shape[1], *cells.to_numpy().tolist()]
        pages[name] = "" if table.empty else "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    return pages


def _pivot(rows: pd.DataFrame, index: Sequence[str] = ("task", "model"), tested: str = "") -> pd.DataFrame:
    """A line for each value of the index, a column for each measure; t-interval and runs are those of `tested`."""
    table = rows.pivot_table("text", list(index), "measure", aggfunc="first", sort=False)
    of_measure = {name: part.set_index(list(index)) for name, part in rows.groupby("measure")}
    if tested in of_measure:
        table = table.join(of_measure[tested][["t-interval", "runs"]])
    measure = "accuracy" if "accuracy" in of_measure else ARM_NAMES["pretrained"]  # of lines that are compared with
    if measure in of_measure:
        runs = of_measure[measure]["runs"]
        table = table.assign(runs=table["runs"].fillna(runs) if "runs" in table else runs)
    return table


def _models(planner: Planner, records: Mapping[str, Record]) -> pd.DataFrame:
    lines, timed = {}, records.get(planner.latency.name)
    steps, shallow = timed.results.get("step_seconds", {}) if timed else {}, planner.plan.shallow
    for model in (*planner.plan.pretraining, *planner.plan.committee.variants):
        runs = [run for run, _ in planner.encoders(model).values()]
        made = [records[run.name] for run in runs if run.name in records]
        found = [record.results for record in made]
        if found:
            losses = [f"{loss:.2f}" for loss in sorted(record["held_out"]["loss"] for record in found)]
            line = {"parameters": f"{found[0]['parameters']:,}", "seeds": str(len(found))}
            line |= {key: f"{found[0][key]:,}" for key in ("texts", "steps")}
            line["held-out loss, nats"] = " to ".join(dict.fromkeys([losses[0], losses[-1]]))
            seconds = timed_seconds(made)
            line["seconds of one core"] = f"{median(seconds):,.0f}" if seconds else ""
            if model in steps:
                line[f"a step, times that of {shallow}"] = f"{steps[model] / steps[shallow]:.2f}"
            lines[model] = line
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("encoder")


def _overlap(rows: pd.DataFrame, planner: Planner, records: Mapping[str, Record]) -> pd.DataFrame:
    measures = [
        {"task": task, "model": f"{planner.plan.shallow}, {kind} overlap"}
        | {title: f"{measured[key]:.4f}" for key, title in MEASURES.items()}
        for task, kinds in overlap_measures(planner, records).items()
        for kind, measured in kinds.items()
    ]
    names = rows["model"].where(rows["measure"] == "gap", rows["x"])
    table = _pivot(rows.assign(measure="gap", model=names), tested="gap")
    return table.join(pd.DataFrame(measures).set_index(["task", "model"])) if measures else table


def _rates(planner: Planner) -> pd.DataFrame:
    """What validation said of the candidates of each arm, where there are several."""
    tried: list[tuple[str, str, str, int | None]] = []
    for task in planner.plan.tasks:
        plan, counts = planner.plan, list(filter(None, planner.label_counts(task).values()))
        variants = plan.committee.variants if plan.rates.variants else {}
        tried += [(task, model, model, None) for model in (*plan.finetuning, *variants)]
        tried += [(task, f"{m}, {count} labels", m, count) for count in counts for m in (plan.shallow, *variants)]
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for (task, name, model, count), arm in product(tried, ARM_NAMES):
        runs, chosen = planner.candidates(model, task, arm, count), planner.chosen(model, task, arm, count)
        if len(runs) == 1 or chosen is None or (arm == "scratch" and model != planner.recipe(model)):
            continue
        cells, rates = [], [option.learning_rate for option in runs]
        for option, accuracy in planner.means(runs).items():
            width = f" (initial weights {option.initializer_range:g})" if option.initializer_range else ""
            words = f"{option.learning_rate:g}{width}: {accuracy:.3f}"
            at_edge = " at the edge" if option.learning_rate in (min(rates), max(rates)) else ""
            cells.append(f"**{words}{at_edge}**" if option == chosen else words)
        lines.setdefault((task, name), {})[ARM_NAMES[arm]] = ", ".join(cells)
    table = pd.DataFrame.from_dict(lines, orient="index", columns=list(ARM_NAMES.values()))
    return table.rename_axis(["task", "model"]) if lines else table


def draw_plots(frame: pd.DataFrame, plan: SizePlan, folder: Path) -> list[str]:
    """Draw a plot of each finding that has a row; returns the names of those drawn."""
    drawn = []
    for name, (finding, xlabel, ylabel, draw) in PLOTS.items():
        shown = frame[frame["finding"] == finding]
        tasks = [task for task in plan.tasks if (shown["task"] == task).any()]
        if not tasks:
            continue
        size = max(7.0, 4.2 * len(tasks)), 3.9
        (folder / name).unlink(missing_ok=True)
        with new_figure(folder / name, xlabel=xlabel, size=size, panels=len(tasks)) as panels:
            figure = panels[0].figure
            entries: dict[str, Any] = {}
            colours = dict(COLOURS)  # of the labels, the same in all panels
            panels[0].set_ylabel(f"{ylabel}, 95% intervals")
            baselines = frame[frame["finding"] == {GAP: BASELINES}.get(finding, finding)]
            baselines = baselines[baselines["model"].isin(BASELINE_NAMES.values()) & (finding != LABELS)]
            for axes, task in zip(panels, tasks, strict=True):
                axes.set_title(task)
                draw(axes, shown[shown["task"] == task], plan, colours)
                for row in baselines[baselines["task"] == task].itertuples():
                    style = {"color": colours[row.model], "linestyle": "--", "linewidth": 1}
                    axes.axhline(100 * row.estimate, label=row.model, **style)
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                    entries.setdefault(label, handle)
            column = 0.5 + 0.06 * max(map(len, entries), default=0)  # inches that the longest label takes
            columns = max(1, min(4, int(figure.get_figwidth() / column)))
            style = {"ncols": columns, "frameon": False, "fontsize": 9}
            figure.legend(list(entries.values()), list(entries), loc="outside lower center", **style)
        if (folder / name).is_file():
            drawn.append(name)
    return drawn


def _points(
    axes: Any, rows: pd.DataFrame, x: Iterable[float], labels: Iterable[str], colours: Colours, mark: str = "o-"
) -> None:
    """Points with their intervals, a line for each label; new labels get a colour."""
    for label, part in rows.assign(place=list(x), label=list(labels)).groupby("label", sort=False):
        values = 100 * part["estimate"]
        errors = [(values - 100 * part["low"]).clip(lower=0), (100 * part["high"] - values).clip(lower=0)]
        colour = colours.setdefault(str(label), f"C{len(colours) - len(COLOURS)}")
        axes.errorbar(part["place"], values, errors, capsize=3, label=label, fmt=mark, color=colour)


def _gap(axes: Any, rows: pd.DataFrame, plan: SizePlan, colours: Colours) -> None:
    rows = rows[rows["measure"].isin(ARM_NAMES.values())]
    models = list(dict.fromkeys(rows["model"]))
    shifts = rows["measure"].map({"pre-trained": 0.12, "from scratch": -0.12})
    _points(axes, rows, rows["model"].map(models.index) + shifts, rows["measure"], colours, "o")
    axes.set_xlim(-0.6, len(models) - 0.4)
    axes.set_xticks(range(len(models)), [model.replace(" of ", " of\n") for model in models])


def _by_count(measure: str, axes: Any, rows: pd.DataFrame, plan: SizePlan, colours: Colours) -> None:
    rows = rows[rows["measure"] == measure]
    names = rows["model"].str.split(", ").str[-1]
    # Equal steps and equal epochs are shifted apart, or one interval hides the other.
    shifts = names.map({"equal steps": 0.98, "equal epochs": 1.02}).fillna(1)
    _points(axes, rows, rows["x"] * shifts, names, colours)
    if measure == "gap":
        axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_xscale("log", base=2)
    counts = sorted(rows["x"].unique())
    axes.set_xticks(counts, [f"{int(count):,}" for count in counts], fontsize=8)


def _committee(axes: Any, rows: pd.DataFrame, plan: SizePlan, colours: Colours) -> None:
    reference, accuracies = plan.committee.reference, rows[rows["measure"] == "accuracy"]
    shown = accuracies[~accuracies["model"].isin([reference, *plan.committee.members, *BASELINE_NAMES.values()])]
    names = shown["model"].str.split(":").str[0].str.removeprefix("committee of ")
    kinds = list(dict.fromkeys(names))  # side by side, or their intervals hide each other
    _points(axes, shown, shown["x"] + 0.06 * (names.map(kinds.index) - (len(kinds) - 1) / 2), names, colours)
    for row in accuracies[accuracies["model"] == reference].itertuples():
        axes.axhline(100 * row.estimate, color=RED, label=f"{reference}, pre-trained")
        axes.axhspan(100 * row.low, 100 * row.high, color=RED, alpha=0.1, linewidth=0)
    axes.set_xticks(plan.committee.counts)


PLOTS: dict[str, tuple[str, str, str, Callable[[Any, pd.DataFrame, SizePlan, Colours], None]]] = {
    "gap.png": (GAP, "", "test accuracy (%)", _gap),
    "corpus_size.png": (CORPUS_SIZE, "pre-training texts", "gap (points)", partial(_by_count, "gap")),
    "committee.png": (COMMITTEE, "members", "test accuracy (%)", _committee),
    "labels.png": (LABELS, "training texts of a class", "test accuracy (%)", partial(_by_count, "accuracy")),
}
"""By file the finding, the titles of the axes, and what draws a panel."""
