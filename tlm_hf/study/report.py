"""`tlm study report`: tables and plots of the findings from the records alone; twice gives equal bytes."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median

import jinja2
import pandas as pd

from ..errors import UserError
from ..runs.atomic_files import Json, write_json, write_text
from ..runs.provenance import portable_path
from .execute import Record
from .findings import (
    COLLAPSED,
    NOT_WORSE,
    OTHER_SEEDS,
    WITHOUT_COLLAPSED,
    Findings,
    Row,
    difference_from,
)
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP, Planner
from .plan_file import ARMS, BASELINE_NAMES
from .plots import draw_plots
from .study import StudyArguments, check_arguments, read_state

REPORT_FILE, ROWS_FILE = "REPORT.md", "rows.json"
TEMPLATE = Path(__file__).with_name("report.md.jinja")
Cells = tuple[pd.DataFrame, Mapping[str, str]]
"""Rows, and by column of them the column of a table that it fills."""


def write_report(arguments: StudyArguments) -> Json:
    """Write `REPORT.md`, `rows.json` and the plots into the results folder; returns the page and the rows.

    Raises:
        UserError: bad options or plan, or no record yet.
    """
    plan = check_arguments(arguments)
    state, folder = read_state(arguments, plan), arguments.results_folder
    if not state.records:
        raise UserError(f"{folder} has no finished run: start with `tlm study run --size {arguments.size}`.")
    findings = Findings(state.planner, state.records, arguments.records_folder)
    rows, latency = findings.rows(), findings.latency()
    frame = with_texts(rows)
    times = pd.DataFrame(latency, columns=["model", "members", "batch_size", "milliseconds"])
    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    results = [record.results for record in state.records.values()]
    machines = [record["machine"] for record in results]
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=arguments.title,
        command=arguments.command("report"),
        plan=plan,
        state=state,
        tables=write_tables(frame, times, state.planner, state.records),
        drawn=draw_plots(frame, times, plan, folder),
        hours=sum(record.get("seconds", 0.0) for record in results) / 3600,
        machines=sorted(
            {f"{m['processor']}, {m['cores']} cores, {m.get('accelerator') or 'no GPU'}" for m in machines}
        ),
        commits=sorted({re.sub(r"^(\w{12})\w*", r"\1", record["commit"] or "none") for record in results}),
        margin=NOT_WORSE,
        collapsed=COLLAPSED,
    )
    write_text(folder / REPORT_FILE, page)
    written = {"size": arguments.size, "reference": plan.committee.reference, "rows": [asdict(row) for row in rows]}
    write_json(folder / ROWS_FILE, {**written, "latency": latency})
    return {"report": portable_path(str(folder / REPORT_FILE)), "rows": written["rows"]}


def write_tables(
    frame: pd.DataFrame, times: pd.DataFrame, planner: Planner, records: Mapping[str, Record]
) -> dict[str, str]:
    """The report's tables in Markdown by name; one without rows is empty."""
    findings = {name: frame[frame["finding"] == name] for name in (GAP, CORPUS_SIZE, OVERLAP, COMMITTEE, BASELINES)}
    frames = {
        "models": _models(planner, records),
        "gap": _gap(findings[GAP], findings[BASELINES], BASELINE_NAMES[planner.plan.baselines[0]]),
        "collapsed": _collapsed(findings[GAP]),
        "corpus_size": _corpus_size(findings[CORPUS_SIZE], planner),
        "overlap": _overlap(findings[OVERLAP]),
        "committee": _committee(findings[COMMITTEE], findings[BASELINES]),
        "smallest": _smallest(findings[COMMITTEE], times, planner),
        "latency": _latency(times),
        "rates": _rates(planner),
    }
    return {name: "" if table.empty else markdown(table) for name, table in frames.items()}


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.fillna("").astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_texts(rows: list[Row]) -> pd.DataFrame:
    """The rows with their values as text: percent, percentage points, the t-interval, the runs of each side."""
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(Row.__annotations__))
    frame["percent"] = [f"{100 * r.estimate:.1f} [{100 * r.low:.1f}, {100 * r.high:.1f}]" for r in rows]
    frame["points"] = [f"{100 * row.estimate:+.1f} [{bound(row.low)}, {bound(row.high)}]" for row in rows]
    frame["t_points"] = [
        "one run" if row.t_low is None or row.t_high is None else f"[{bound(row.t_low)}, {bound(row.t_high)}]"
        for row in rows
    ]
    frame["sides"] = [" and ".join(map(str, row.runs)) for row in rows]
    frame["members"] = ["" if row.x is None else str(row.x) for row in rows]
    return frame


def bound(share: float) -> str:
    """An end of an interval in percentage points; with more digits where it would round to 0."""
    return f"{100 * share:+.1f}" if abs(100 * share) >= 0.05 else f"{100 * share:+.3f}"


def _spread(index: list[str], *parts: Cells) -> pd.DataFrame:
    """A table with a line for each value of the index columns; each part fills other columns."""
    columns = [rows.set_index(index)[list(titles)].rename(columns=titles) for rows, titles in parts]
    return pd.concat(columns, axis=1).reset_index()


def _models(planner: Planner, records: Mapping[str, Record]) -> pd.DataFrame:
    """What the encoders on the whole corpus are and cost."""
    lines = []
    for model in (*planner.plan.pretraining, planner.plan.longer_name):
        runs = [run for run, _ in planner.encoders(model).values()] if model else []
        found = [records[run.name].results for run in runs if run.name in records]
        if found:
            losses = [f"{loss:.2f}" for loss in sorted(record["held_out"]["loss"] for record in found)]
            lines.append({
                "encoder": model,
                "parameters": f"{found[0]['parameters']:,}",
                "seeds": len(found),
                "texts": f"{found[0]['texts']:,}",
                "steps": f"{found[0]['steps']:,}",
                "held-out loss, nats": " to ".join(dict.fromkeys([losses[0], losses[-1]])),
                "seconds of one core": f"{median(record['seconds'] for record in found):,.0f}",
            })  # fmt: skip
    return pd.DataFrame(lines)


def _gap(rows: pd.DataFrame, baselines: pd.DataFrame, tfidf: str) -> pd.DataFrame:
    accuracies = rows[rows["measure"] == "accuracy"]
    gaps = {"points": "gap", "t_points": "t-interval of the gap", "sides": "runs"}
    return _spread(
        ["task", "model"],
        (accuracies[accuracies["x"] == "scratch"], {"percent": "from scratch"}),
        (pd.concat([accuracies[accuracies["x"] == "pretrained"], baselines]), {"percent": "pre-trained"}),
        (rows[rows["x"] == "gap"], gaps),
        (rows[rows["x"] == OTHER_SEEDS], {"points": OTHER_SEEDS}),
        (rows[rows["measure"] == difference_from(tfidf)], {"points": "pre-trained less TF-IDF"}),
    )


def _collapsed(rows: pd.DataFrame) -> pd.DataFrame:
    """The gap without runs that did not learn."""
    rows = rows[rows["x"] == WITHOUT_COLLAPSED]
    titles = {"names": "runs that did not learn", "points": "gap without them", "t_points": "t-interval"}
    named = rows.assign(names=rows["collapsed"].map(lambda names: ", ".join(names or ())))
    return _spread(["task", "model"], (named, {**titles, "sides": "runs"}))


def _corpus_size(rows: pd.DataFrame, planner: Planner) -> pd.DataFrame:
    gaps, sizes = rows[rows["measure"] == "gap"], planner.plan.corpus_size.num_texts
    by_size: list[Cells] = [(gaps[gaps["x"] == size], {"points": f"{size:,} texts"}) for size in sizes]
    rise = rows[rows["x"] == "slope"], {"points": "gap per doubling", "t_points": "t-interval"}
    return _spread(["task", "model"], *by_size, rise, (gaps[gaps["x"] == sizes[-1]], {"sides": "runs"}))


def _overlap(rows: pd.DataFrame) -> pd.DataFrame:
    is_gap = rows["measure"] == "gap"
    differences = rows[~is_gap].assign(model=rows["x"])
    gaps = rows[is_gap].reset_index(drop=True)
    measures = pd.DataFrame(
        gaps["measures"].tolist(), columns=["jensen_shannon_bits", "type_coverage", "occurrence_coverage"]
    )
    measured = gaps.assign(
        bits=measures["jensen_shannon_bits"].map("{:.3f}".format),
        types=measures["type_coverage"].map("{:.3f}".format),
        occurrences=measures["occurrence_coverage"].map("{:.4f}".format),
    )
    titles = {"bits": "divergence, bits", "types": "types covered", "occurrences": "occurrences covered"}
    titles |= {"points": "gap", "t_points": "t-interval", "sides": "runs"}
    return _spread(["task", "model"], (pd.concat([measured, differences]), titles))


def _committee(rows: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of committees, the deep encoder and the baselines, and the committees' differences."""
    names = [name for name in dict.fromkeys(rows["measure"]) if name.startswith("difference")]
    differences: list[Cells] = [(rows[rows["measure"] == name], {"points": name}) for name in names]
    accuracies = pd.concat([rows[rows["measure"] == "accuracy"], baselines])
    return _spread(["task", "model", "members"], (accuracies, {"percent": "accuracy"}), *differences)


def _smallest(rows: pd.DataFrame, times: pd.DataFrame, planner: Planner) -> pd.DataFrame:
    """The smallest committees that are not worse than the deep encoder."""
    first, reference = planner.plan.first_member, planner.plan.committee.reference
    one_text = times[times["batch_size"] == 1].set_index(["model", "members"])["milliseconds"]
    rows = rows[rows["measure"] == "smallest that is not worse"]
    deep = one_text.get((reference, 1))
    faster = [deep / one_text[first, x] if (first, x) in one_text.index else None for x in rows["x"]]
    shown = rows.assign(faster=["" if ratio is None else f"{ratio:.1f}" for ratio in faster])
    titles = {"points": difference_from(reference), "faster": "times as fast, one text"}
    return _spread(["task", "model", "members"], (shown, titles))


def _latency(times: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds of the models of finding d."""
    shown = times.assign(milliseconds=times["milliseconds"].map("{:.2f}".format))
    batches = dict.fromkeys(times["batch_size"])
    columns: list[Cells] = [
        (shown[shown["batch_size"] == texts], {"milliseconds": f"batch of {texts}, ms"}) for texts in batches
    ]
    return _spread(["model", "members"], *columns) if columns else times


def _rates(planner: Planner) -> pd.DataFrame:
    """What validation said of the candidates of each arm, where there are several."""
    lines = []
    for task in planner.plan.tasks:
        for recipe in planner.plan.finetuning:
            for arm in ARMS:
                runs, chosen = planner.candidates(recipe, task, arm), planner.chosen(recipe, task, arm)
                cells = []
                for option, tries in runs.items():
                    accuracy = planner.accuracy(tries)
                    width = f" (initial weights {option.initializer_range:g})" if option.initializer_range else ""
                    outcome = "to be done" if accuracy is None else f"{accuracy:.3f}"
                    words = f"{option.learning_rate:g}{width}: {outcome}"
                    cells.append(f"**{words}**" if option == chosen else words)
                if len(runs) > 1 and not all("to be done" in cell for cell in cells):
                    rates = [option.learning_rate for option in runs]
                    at_edge = chosen is not None and chosen.learning_rate in (min(rates), max(rates))
                    title = "mean validation accuracy of each candidate, the chosen one in bold"
                    line = {"task": task, "model": recipe, "arm": arm, title: ", ".join(cells)}
                    lines.append({**line, "at the edge": "yes" if at_edge else ""})
    return pd.DataFrame(lines)
