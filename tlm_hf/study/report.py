"""`tlm study report`: tables and plots of the findings from the records alone; twice gives equal bytes."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from ..data.corpora import load_corpus
from ..data.overlap_subsets import KINDS
from ..data.tasks import load_task
from ..errors import UserError
from ..hub.demo_data import DEMO_FILE, DemoTask, stage_demo
from ..runs.atomic_files import Json, write_json, write_text
from ..runs.provenance import portable_path
from ..training.join_committee import CommitteeArguments, join_committee
from .estimates import Row
from .execute import Record, is_ready
from .findings import (
    BASELINE_NAMES,
    COLLAPSED,
    NOT_WORSE,
    OTHER_SEEDS,
    WITHOUT_COLLAPSED,
    Findings,
    difference_from,
)
from .plan import BASELINES, COMMITTEE, GAP, OVERLAP, Planner, StudyRun
from .plan_file import ARMS
from .plots import draw_plots
from .study import StudyArguments, check_arguments, read_state

REPORT_FILE, ROWS_FILE = "REPORT.md", "rows.json"
TEMPLATE = Path(__file__).with_name("report.md.jinja")
MOST_DEMO_MEMBERS = 5
TITLES = {
    "ag_news": "AG News: world, sports, business or technology?",
    "dbpedia_14": "DBpedia: what kind of thing is described?",
    "fewrel": "FewRel: which relation does a sentence state?",
    "docstrings": "Which library does a paragraph document?",
}


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
    tables = Tables(rows, latency, state.planner, state.records)
    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    records = list(state.records.values())
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=arguments.title,
        command=arguments.command("report"),
        plan=plan,
        state=state,
        tables=tables,
        drawn=draw_plots(rows, latency, plan, folder),
        hours=sum(record.results.get("seconds", 0.0) for record in records) / 3600,
        machines=sorted({_machine(record.results["machine"]) for record in records}),
        commits=sorted({_commit(record.results["commit"]) for record in records}),
        margin=NOT_WORSE,
        collapsed=COLLAPSED,
    )
    write_text(folder / REPORT_FILE, page)
    written = {"size": arguments.size, "reference": plan.committee.reference, "rows": [asdict(row) for row in rows]}
    written["latency"] = latency
    write_json(folder / ROWS_FILE, written)
    return {"report": portable_path(str(folder / REPORT_FILE)), "rows": written["rows"]}


def _commit(found: str | None) -> str:
    return "none" if found is None else found[:12] + ("-dirty" if found.endswith("-dirty") else "")


def _machine(found: Json) -> str:
    return f"{found['processor']}, {found['cores']} cores, {found.get('accelerator') or 'no GPU'}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(
        [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *[f"| {' | '.join(row)} |" for row in lines]]
    )


class Tables:
    """The tables of the report, in Markdown."""

    def __init__(self, rows: list[Row], latency: list[Json], planner: Planner, records: dict[str, Record]) -> None:
        self.rows, self.latency_rows, self.planner, self.records = rows, latency, planner, records
        self.plan = planner.plan

    def select(self, **values: Any) -> list[Row]:
        """All rows with these values."""
        return [row for row in self.rows if all(getattr(row, key) == value for key, value in values.items())]

    def find(self, **values: Any) -> Row | None:
        """The one row with these values."""
        return next(iter(self.select(**values)), None)

    def points(self, **values: Any) -> str:
        """The difference in this row with its interval; empty without the row."""
        row = self.find(**values)
        return "" if row is None else row.points

    def models(self) -> str:
        """What the encoders on the whole corpus are and cost."""
        head = ["encoder", "parameters", "seeds", "texts", "steps", "held-out loss, nats", "seconds of one core"]
        lines = []
        for model in (*self.plan.pretraining, self.plan.longer_name):
            runs = [run for run, _ in self.planner.encoders(model).values()] if model else []
            found = [self.records[run.name].results for run in runs if run.name in self.records]
            if found:
                losses = [record["held_out"]["loss"] for record in found]
                low, high = f"{min(losses):.2f}", f"{max(losses):.2f}"
                counts = [found[0]["parameters"], len(found), found[0]["texts"], found[0]["steps"]]
                seconds = median(record["seconds"] for record in found)
                loss = low if low == high else f"{low} to {high}"
                lines.append([model, *[f"{count:,}" for count in counts], loss, f"{seconds:,.0f}"])
        return markdown(head, lines)

    def gap(self) -> str:
        """Finding a."""
        head = ["task", "model", "from scratch", "pre-trained", "gap", "t-interval of the gap", "runs"]
        head += ["gap, other seeds", "pre-trained less TF-IDF"]
        lines = []
        for row in self.select(finding=GAP, x="gap"):
            of = {"finding": GAP, "task": row.task, "model": row.model}
            arms = [self.select(**of, x=arm, measure="accuracy")[0].percent for arm in ("scratch", "pretrained")]
            rest = self.points(**of, x=OTHER_SEEDS)
            tfidf = self.points(**of, measure=difference_from(BASELINE_NAMES["tfidf"]))
            lines.append([row.task, row.model, *arms, row.points, row.t_points, row.sides, rest, tfidf])
        lines.sort(key=lambda line: list(self.plan.tasks).index(line[0]))
        return markdown(head, lines + self._baselines(len(head)))

    def collapsed(self) -> str:
        """The gap without runs that did not learn; empty where all did."""
        head = ["task", "model", "runs that did not learn", "gap without them", "t-interval", "runs"]
        rows = self.select(x=WITHOUT_COLLAPSED)
        lines = [
            [row.task, row.model, ", ".join(row.collapsed or ()), row.points, row.t_points, row.sides] for row in rows
        ]
        return markdown(head, lines) if lines else ""

    def _baselines(self, columns: int) -> list[list[str]]:
        """A line for each baseline and task, with its accuracy in the fourth column."""
        rows = self.select(finding=BASELINES)
        return [[row.task, row.model, "", row.percent, *[""] * (columns - 4)] for row in rows]

    def corpus_size(self) -> str:
        """Finding b."""
        sizes = self.plan.corpus_size.num_texts
        head = ["task", "at equal", *[f"{size:,} texts" for size in sizes], "gap per doubling", "t-interval", "runs"]
        lines = []
        for task in self.plan.tasks:
            for equal in ("steps", "epochs"):
                of = {"task": task, "model": f"{self.plan.corpus_size.recipe}, equal {equal}"}
                gaps = [row for size in sizes for row in self.select(**of, x=size, measure="gap")]
                if gaps:
                    rise = self.find(**of, x="slope")
                    by_size = [self.points(**of, x=size, measure="gap") for size in sizes]
                    trend = ["", ""] if rise is None else [rise.points, rise.t_points]
                    lines.append([task, equal, *by_size, *trend, min(gaps, key=lambda row: row.runs).sides])
        return markdown(head, lines)

    def overlap(self) -> str:
        """Finding c."""
        head = ["task", "subset", "divergence, bits", "types covered", "occurrences covered"]
        head += ["gap", "t-interval", "runs"]
        lines = []
        for task in self.plan.tasks:
            for kind in KINDS:
                row = self.find(task=task, model=f"{self.plan.overlap.recipe}, {kind} overlap", measure="gap")
                if row is not None and row.measures is not None:
                    covered = [f"{row.measures['type_coverage']:.3f}", f"{row.measures['occurrence_coverage']:.4f}"]
                    divergence = f"{row.measures['jensen_shannon_bits']:.3f}"
                    interval = [row.points, row.t_points, row.sides]
                    lines.append([task, f"{kind} overlap", divergence, *covered, *interval])
        for row in self.select(finding=OVERLAP, measure="difference"):
            lines.append([row.task, str(row.x), "", "", "", row.points, row.t_points, row.sides])
        return markdown(head, lines)

    def committee(self) -> str:
        """Finding d: accuracy of committees, the deep encoder and the baselines."""
        first = self.plan.first_member
        plain = f"{self.plan.committee.members[first]} {first}"
        sides = (self.plan.committee.reference, f"as many {first}", plain, *BASELINE_NAMES.values())
        measures = [difference_from(side) for side in sides if self.select(measure=difference_from(side))]
        head = ["task", "model", "members", "accuracy", *measures]
        lines = []
        for row in self.select(finding=COMMITTEE, measure="accuracy"):
            of = {"finding": COMMITTEE, "task": row.task, "model": row.model, "x": row.x}
            others = [self.points(**of, measure=measure) for measure in measures]
            lines.append([row.task, row.model, str(row.x), row.percent, *others])
        return markdown(head, lines + self._baselines(len(head)))

    def _times(self, batch: int) -> dict[tuple[str, int], float]:
        """Milliseconds of a batch by model and members."""
        rows = [row for row in self.latency_rows if row["batch_size"] == batch]
        return {(row["model"], row["members"]): row["milliseconds"] for row in rows}

    def smallest(self) -> str:
        """The smallest committees that are not worse than the deep encoder."""
        first, reference = self.plan.first_member, self.plan.committee.reference
        times = self._times(1)
        lines = []
        for row in self.select(measure="smallest that is not worse"):
            ours, theirs = times.get((first, row.x)), times.get((reference, 1))
            faster = f"{theirs / ours:.1f}" if ours and theirs else ""
            lines.append([row.task, row.model, str(row.x), row.points, faster])
        return markdown(["task", "model", "members", difference_from(reference), "times as fast, one text"], lines)

    def latency(self) -> str:
        """Milliseconds of the models of finding d."""
        batches = sorted({row["batch_size"] for row in self.latency_rows})
        times = {batch: self._times(batch) for batch in batches}
        lines = [
            [model, str(members), *[f"{times[batch][model, members]:.2f}" for batch in batches]]
            for model, members in (times[batches[0]] if batches else ())
        ]
        return markdown(["model", "members", *[f"batch of {texts}, ms" for texts in batches]], lines)

    def rates(self) -> str:
        """What validation said of the candidates of each arm, where there are several."""
        head = ["task", "model", "arm", "validation accuracy of each candidate, the chosen one in bold", "at the edge"]
        lines = []
        for task in self.plan.tasks:
            for recipe, tuning in self.plan.finetuning.items():
                for arm in ARMS:
                    options = tuning.candidates(arm)
                    runs = self.planner.candidates(recipe, task, arm)
                    accuracies = [self.planner.validation.get(run.name) for run in runs]
                    if len(options) > 1 and any(accuracies):
                        chosen = self.planner.chosen(recipe, task, arm)
                        cells = [_candidate(*each, chosen) for each in zip(options, accuracies, strict=True)]
                        rates = [option["learning_rate"] for option in options]
                        is_edge = chosen is not None and chosen["learning_rate"] in (min(rates), max(rates))
                        lines.append([task, recipe, arm, ", ".join(cells), "yes" if is_edge else ""])
        return markdown(head, lines)


def _candidate(option: dict[str, float], accuracy: float | None, chosen: dict[str, float] | None) -> str:
    width = f" (initial weights {option['initializer_range']:g})" if "initializer_range" in option else ""
    outcome = "to be done" if accuracy is None else f"{accuracy:.3f}"
    words = f"{option['learning_rate']:g}{width}: {outcome}"
    return f"**{words}**" if option is chosen else words


def stage_study_demo(arguments: StudyArguments) -> Json:
    """Join finished members into committees of up to five; stage them with a deep encoder for the Space.

    Returns:
        `demo`: the description in `WORK_DIR/demo`; `tasks` that it has.

    Raises:
        UserError: no task has two members whose weights are in the work folder.
    """
    plan = check_arguments(arguments)
    planner, work = read_state(arguments, plan).planner, arguments.work_folder
    tasks = [demo for task in plan.tasks if (demo := _demo_task(arguments, planner, task)) is not None]
    if not tasks:
        raise UserError(
            f"{work} has no task with two members whose weights are there: run `tlm study run --size {arguments.size}` "
            "first."
        )
    first = plan.first_member
    encoders = {recipe: work / planner.pretraining(recipe, 0).name for recipe in (first, plan.committee.reference)}
    encoders = {recipe: folder for recipe, folder in encoders.items() if is_ready("pretrain", folder)}
    corpus = load_corpus(plan.corpus, num_texts=plan.pretraining[first]["num_texts"], root=arguments.data_root)["train"]
    rows = arguments.results_folder / ROWS_FILE
    words = f"{plan.corpus}, {len(corpus):,} texts"
    folder = stage_demo(work / "demo", tasks, encoders, words, corpus["text"][:], rows if rows.is_file() else None)
    return {"demo": portable_path(str(folder / DEMO_FILE)), "tasks": [task.name for task in tasks]}


def _demo_task(arguments: StudyArguments, planner: Planner, task: str) -> DemoTask | None:
    """A committee of the members that have weights, and the deep encoder; None with fewer than two members."""
    plan, work, reference = planner.plan, arguments.work_folder, planner.plan.committee.reference

    def classifiers(runs: list[StudyRun]) -> list[Path]:
        folders = [work / run.name / "classifier" for run in runs]
        return [folder for folder in folders if is_ready("pretrain", folder)]  # results and weights

    members = classifiers(planner.members(plan.first_member, task))[:MOST_DEMO_MEMBERS]
    if len(members) < 2:
        return None
    digest = hashlib.sha256("\n".join(member.parent.name for member in members).encode()).hexdigest()[:10]
    output, options = work / f"committee-{task}-{digest}", plan.tasks[task]
    joined: Json = {"members": [str(member) for member in members], "output_dir": str(output), "disable_tqdm": True}
    join_committee(CommitteeArguments(task=task, data_root=arguments.data_root, **joined, **options))
    deep = classifiers(planner.tuned(reference, task, planner.pretraining(reference, 0), [0]))
    splits = load_task(task, root=arguments.data_root, **options)
    return DemoTask(task, TITLES.get(task, task), output, deep[0] if deep else None, splits)
