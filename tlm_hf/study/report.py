"""`tlm study report`: tables, sentences and plots of the findings from the records alone; twice gives equal bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from ..errors import UserError
from ..runs.atomic_files import write_json, write_text
from .findings import ALL_TASKS, BASELINE_NAMES, COLLAPSED, NOT_WORSE, OTHER_SEEDS, Findings, Row
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP
from .plan_file import SizePlan
from .plots import draw_plots
from .report_sentences import Sentences, percent, points, runs, t_points
from .study import RECORDS, StudyArguments, check_arguments, read_state
from .study_facts import models, precisions, rates

REPORT_FILE, ROWS_FILE = "REPORT.md", "rows.json"
TEMPLATE = Path(__file__).with_name("report.md.jinja")
Table = dict[str, Any]


def write_report(arguments: StudyArguments) -> dict[str, Any]:
    """Write `REPORT.md`, `rows.json` and the plots into the results folder, and the rows to `--json` too.

    Returns:
        `report`: the page; `findings`: the sentences; `rows`.

    Raises:
        UserError: bad options or plan, or no record yet.
    """
    plan = check_arguments(arguments)
    state = read_state(arguments, plan)
    if not state.records:
        raise UserError(
            f"{arguments.results_folder()} has no finished run: start with `tlm study run --size {arguments.size}`."
        )
    folder = arguments.results_folder()
    findings = Findings(plan, state.records, folder / RECORDS)
    rows, latency = findings.rows(), findings.latency()
    view = Report(rows, latency, plan, models(findings), rates(findings))
    drawn = draw_plots(rows, latency, plan, folder)
    sentences = view.sentences()
    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["table"] = markdown
    records = state.records.values()
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=arguments.title,
        plan=plan,
        command=arguments.command("report"),
        drawn=drawn,
        reference=plan.committee["reference"],
        deep=next((row for row in view.models if row["recipe"] == plan.committee["reference"]), None),
        shallow=next((row for row in view.models if row["recipe"] == plan.first_member), None),
        view=view,
        sentences=sentences,
        runs=len(state.records),
        missing=len(state.missing),
        waiting=state.expansion.waiting,
        hours=sum(record.get("seconds", 0.0) for record in records) / 3600,
        trainings=precisions(records),
        machines=sorted({_machine(record["machine"]) for record in records}),
        commits=sorted({_commit(record["commit"]) for record in records}),
        margin=NOT_WORSE,
        collapsed=COLLAPSED,
    )
    write_text(folder / REPORT_FILE, page)
    found = {"size": arguments.size, "rows": rows, "latency": latency, "sentences": sentences}
    found |= {"reference": plan.committee["reference"], "models": view.models, "rates": view.rates}
    write_json(folder / ROWS_FILE, found)
    if arguments.json is not None:
        write_json(Path(arguments.json).expanduser(), found)
    return {"report": str(folder / REPORT_FILE), "findings": sentences, "rows": rows}


def _commit(commit: str | None) -> str:
    if commit is None:
        return "none"
    return commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")


def _machine(found: dict[str, Any]) -> str:
    accelerator = found.get("accelerator") or "no GPU"
    return f"{found['processor']}, {found['cores']} cores, {accelerator}"


def markdown(table: Table) -> str:
    """A Markdown table of `head` and `rows`."""
    lines = [f"| {' | '.join(table['head'])} |", f"|{'---|' * len(table['head'])}"]
    lines += [f"| {' | '.join(row)} |" for row in table["rows"]]
    return "\n".join(lines)


class Report(Sentences):
    """Tables of the rows, beside their sentences.

    Args:
        rows, latency, plan: as of `Sentences`.
        models, rates: see `study_facts`.
    """

    def __init__(
        self, rows: list[Row], latency: list[dict[str, Any]], plan: SizePlan,
        models: Sequence[dict[str, Any]] = (), rates: Sequence[dict[str, Any]] = (),
    ) -> None:  # fmt: skip
        super().__init__(rows, latency, plan)
        self.models, self.rates = list(models), list(rates)

    def model_table(self) -> Table:
        """What the encoders on the whole corpus cost."""
        head = ["encoder", "parameters", "seeds", "texts", "steps", "held-out loss, nats", "seconds of one core"]
        lines = []
        for row in self.models:
            low, high = row["loss"]
            loss = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
            numbers = [f"{row[name]:,}" for name in ("parameters", "encoders", "texts", "steps")]
            lines.append([row["recipe"], *numbers, loss, f"{row['seconds']:,.0f}"])
        return {"head": head, "rows": lines}

    def rate_table(self) -> Table:
        """What validation said of the candidates of each arm."""
        head = ["task", "model", "arm", "validation accuracy of each candidate, the chosen one in bold", "at the edge"]
        lines = []
        for row in self.rates:
            cells = []
            for candidate in row["candidates"]:
                words = f"{candidate['learning_rate']:g}"
                if "initializer_range" in candidate:
                    words += f" (initial weights {candidate['initializer_range']:g})"
                words += ": " + ("to be done" if candidate["validation"] is None else f"{candidate['validation']:.3f}")
                cells.append(f"**{words}**" if candidate["chosen"] else words)
            edge = "yes" if row["at_edge"] else ""
            lines.append([row["task"], row["recipe"], row["arm"], ", ".join(cells), edge])
        return {"head": head, "rows": lines}

    def _baseline_rows(self, columns: int, place: int) -> list[list[str]]:
        """A line for each baseline and task: its accuracy in column `place`."""
        lines = []
        for task in self.tasks:
            for row in self.all(finding=BASELINES, task=task):
                cells = [task, row["model"], *[""] * (columns - 2)]
                cells[place] = percent(row)
                lines.append(cells)
        return lines

    def gap_table(self) -> Table:
        """Finding a."""
        head = ["task", "model", "from scratch", "pre-trained", "gap", "t-interval of the gap", "runs",
                "gap, other seeds", "pre-trained less TF-IDF"]  # fmt: skip
        lines = []
        for task in self.tasks:
            for model in self.plan.gap_models():
                of = {"finding": GAP, "task": task, "model": model}
                gap = self.find(**of, x="gap")
                if gap is not None:
                    arms = [self.find(**of, x=arm, measure="accuracy") for arm in ("scratch", "pretrained")]
                    rest = points(self.find(**of, x=OTHER_SEEDS))
                    tfidf = points(self.find(**of, measure=f"difference from {BASELINE_NAMES['tfidf']}"))
                    lines.append([task, model, *map(percent, arms), points(gap), t_points(gap), runs(gap), rest, tfidf])
        return {"head": head, "rows": lines + self._baseline_rows(len(head), 3)}

    def corpus_table(self) -> Table:
        """Finding b."""
        sizes = self.plan.corpus_size["num_texts"]
        head = ["task", "at equal", *[f"{size:,} texts" for size in sizes], "gap per doubling", "t-interval", "runs"]
        lines = []
        recipe = self.plan.corpus_size["recipe"]
        for task in self.tasks:
            for equal in ("steps", "epochs"):
                model = f"{recipe}, equal {equal}"
                found = [
                    self.find(finding=CORPUS_SIZE, task=task, model=model, x=size, measure="gap") for size in sizes
                ]
                rise = self.find(finding=CORPUS_SIZE, task=task, model=model, x="slope")
                if any(found):
                    fewest = min((row for row in found if row is not None), key=lambda row: row["runs"])
                    lines.append([task, equal, *map(points, found), points(rise), t_points(rise), runs(fewest)])
        return {"head": head, "rows": lines}

    def overlap_table(self) -> Table:
        """Finding c."""
        head = [
            "task", "subset", "divergence, bits", "types covered", "occurrences covered", "gap", "t-interval", "runs",
        ]  # fmt: skip
        lines = []
        for task in self.tasks:
            for row in self.all(finding=OVERLAP, task=task, measure="gap"):
                measured = row["measures"]
                lines.append(
                    [task, row["model"].split(", ")[1], f"{row['x']:.3f}", f"{measured['type_coverage']:.3f}",
                     f"{measured['occurrence_coverage']:.4f}", points(row), t_points(row), runs(row)]
                )  # fmt: skip
        for task in (*self.tasks, ALL_TASKS):
            for row in self.all(finding=OVERLAP, task=task, measure="difference"):
                lines.append([task, row["x"], "", "", "", points(row), t_points(row), runs(row)])
        return {"head": head, "rows": lines}

    def committee_table(self) -> Table:
        """Finding d: accuracy of committees, the deep encoder and the baselines."""
        reference = self.plan.committee["reference"]
        first = self.plan.first_member
        plain = f"{self.plan.committee['members'][first]} {first}"
        sides = (reference, f"as many {first}", plain, *BASELINE_NAMES.values())
        comparisons = [f"difference from {name}" for name in sides]
        comparisons = [measure for measure in comparisons if self.all(measure=measure)]
        head = ["task", "model", "members", "accuracy", *comparisons]
        lines = []
        for task in self.tasks:
            rows = self.all(finding=COMMITTEE, task=task, measure="accuracy")
            for row in rows:
                others = [
                    self.find(finding=COMMITTEE, task=task, model=row["model"], x=row["x"], measure=measure)
                    for measure in comparisons
                ]
                lines.append([task, row["model"], str(row["x"]), percent(row), *map(points, others)])
        return {"head": head, "rows": lines + self._baseline_rows(len(head), 3)}

    def latency_table(self) -> Table:
        """Milliseconds of the models of finding d."""
        batches = sorted({row["batch_size"] for row in self.latency})
        head = ["model", "members", *[f"batch of {texts}, ms" for texts in batches]]
        lines = []
        for model, members in dict.fromkeys((row["model"], row["members"]) for row in self.latency):
            times = {
                row["batch_size"]: row["milliseconds"]
                for row in self.latency
                if (row["model"], row["members"]) == (model, members)
            }
            lines.append([model, str(members), *[f"{times[texts]:.2f}" for texts in batches]])
        return {"head": head, "rows": lines}
