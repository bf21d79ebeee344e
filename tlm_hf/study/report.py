"""`tlm study report`: tables, sentences and plots of the findings from the records alone; twice gives equal bytes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from ..errors import UserError
from ..runs import write_json
from .findings import BASELINE_NAMES, NOT_WORSE, Findings, Row
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP, SizePlan
from .plots import draw_plots
from .study import RECORDS, StudyArguments, check_arguments, read_state

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
    draw_plots(rows, latency, plan, folder)
    view = Report(rows, latency, plan)
    sentences = view.sentences()
    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["table"] = markdown
    records = state.records.values()
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        size=arguments.size,
        plan=plan,
        view=view,
        sentences=sentences,
        runs=len(state.records),
        missing=len(state.missing),
        waiting=state.expansion.waiting,
        hours=sum(record.get("seconds", 0.0) for record in records) / 3600,
        machines=sorted({_machine(record["machine"]) for record in records}),
        commits=sorted({_commit(record["commit"]) for record in records}),
        margin=NOT_WORSE,
    )
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")
    found = {"size": arguments.size, "rows": rows, "latency": latency, "sentences": sentences}
    found["reference"] = plan.committee["reference"]
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


def percent(row: Row | None) -> str:
    """`85.6 [84.1, 87.0]`, in percent of the test texts."""
    if row is None:
        return ""
    return f"{100 * row['estimate']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def points(row: Row | None) -> str:
    """`+3.1 [+1.0, +5.2]`, in percentage points."""
    if row is None:
        return ""
    return f"{100 * row['estimate']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def t_points(row: Row | None) -> str:
    """The t-interval over seeds, in percentage points."""
    if row is None:
        return ""
    if row["t_low"] is None:
        return "one seed"
    return f"[{100 * row['t_low']:+.1f}, {100 * row['t_high']:+.1f}]"


class Report:
    """Tables and sentences of the rows (see `findings`).

    Args:
        rows: of all findings.
        latency: milliseconds of models.
        plan: of the size.
    """

    def __init__(self, rows: list[Row], latency: list[dict[str, Any]], plan: SizePlan) -> None:
        self.rows, self.latency, self.plan = rows, latency, plan
        self.tasks = list(plan.tasks)

    def find(self, **wanted: Any) -> Row | None:
        """The one row with these values."""
        return next((row for row in self.rows if all(row[key] == value for key, value in wanted.items())), None)

    def all(self, **wanted: Any) -> list[Row]:
        """All rows with these values."""
        return [row for row in self.rows if all(row[key] == value for key, value in wanted.items())]

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
        head = ["task", "model", "from scratch", "pre-trained", "gap", "t-interval of the gap", "pre-training seeds"]
        lines = []
        for task in self.tasks:
            for recipe in self.plan.gap["recipes"]:
                gap = self.find(finding=GAP, task=task, model=recipe, x="gap")
                if gap is not None:
                    arms = [self.find(finding=GAP, task=task, model=recipe, x=arm) for arm in ("scratch", "pretrained")]
                    lines.append([task, recipe, *map(percent, arms), points(gap), t_points(gap), str(gap["seeds"])])
        return {"head": head, "rows": lines + self._baseline_rows(len(head), 3)}

    def corpus_table(self) -> Table:
        """Finding b."""
        sizes = self.plan.corpus_size["num_texts"]
        head = ["task", "at equal", *[f"{size:,} texts" for size in sizes], "gap per doubling", "t-interval", "seeds"]
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
                    seeds = str(min(row["seeds"] for row in found if row is not None))
                    lines.append([task, equal, *map(points, found), points(rise), t_points(rise), seeds])
        return {"head": head, "rows": lines}

    def overlap_table(self) -> Table:
        """Finding c."""
        head = [
            "task", "subset", "divergence, bits", "types covered", "occurrences covered", "gap", "t-interval", "seeds",
        ]  # fmt: skip
        lines = []
        for task in self.tasks:
            for row in self.all(finding=OVERLAP, task=task, measure="gap"):
                measured = row["measures"]
                lines.append(
                    [task, row["model"].split(", ")[1], f"{row['x']:.3f}", f"{measured['type_coverage']:.3f}",
                     f"{measured['occurrence_coverage']:.4f}", points(row), t_points(row), str(row["seeds"])]
                )  # fmt: skip
            found = self.find(finding=OVERLAP, task=task, x="high - low")
            if found is not None:
                lines.append([task, "high - low", "", "", "", points(found), t_points(found), str(found["seeds"])])
        return {"head": head, "rows": lines}

    def committee_table(self) -> Table:
        """Finding d: accuracy of committees, the deep encoder and the baselines."""
        reference = self.plan.committee["reference"]
        first = self.plan.first_member
        sides = (reference, f"as many {first}", *BASELINE_NAMES.values())
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

    def sentences(self) -> dict[str, list[str]]:
        """By finding what it shows, one plain sentence each."""
        makers: dict[str, Callable[[str], Sequence[str]]] = {
            GAP: self._gap_sentences,
            CORPUS_SIZE: self._corpus_sentences,
            OVERLAP: self._overlap_sentences,
            COMMITTEE: lambda task: [
                *self._committee_sentences(task),
                *self._mixed_sentences(task),
                *self._baseline_sentences(task),
            ],
        }
        return {name: [words for task in self.tasks for words in make(task)] for name, make in makers.items()}

    def _gap_sentences(self, task: str) -> list[str]:
        rows = {recipe: self.find(finding=GAP, task=task, model=recipe, x="gap") for recipe in self.plan.gap["recipes"]}
        return [
            sentence
            for recipe, row in rows.items()
            for sentence in _changes(task, row, f"pre-training changes the accuracy of {recipe}", "it pays", "it costs")
        ]

    def _corpus_sentences(self, task: str) -> list[str]:
        recipe = self.plan.corpus_size["recipe"]
        rows = {
            equal: self.find(finding=CORPUS_SIZE, task=task, model=f"{recipe}, equal {equal}", x="slope")
            for equal in ("steps", "epochs")
        }
        return [
            sentence
            for equal, row in rows.items()
            for sentence in _changes(
                task, row, f"at equal {equal}, each doubling of the corpus changes the gap", "it rises", "it falls"
            )
        ]

    def _overlap_sentences(self, task: str) -> list[str]:
        row = self.find(finding=OVERLAP, task=task, x="high - low")
        words = "text of high overlap instead of low changes the accuracy"
        return _changes(task, row, words, "overlap pays", "overlap costs")

    def _committee_sentences(self, task: str) -> list[str]:
        reference, first = self.plan.committee["reference"], self.plan.first_member
        name = f"committee of {first}"
        curve = self.all(finding=COMMITTEE, task=task, model=name, measure=f"difference from {reference}")
        if not curve:
            return []
        row = self.find(finding=COMMITTEE, task=task, model=name, measure="smallest that is not worse")
        if row is None:
            last = curve[-1]
            return [
                f"On {task}, no committee of up to {last['x']} members is shown not to be worse than {reference} "
                f"({points(last)} points at {last['x']})."
            ]
        words = f"On {task}, {_committee(row['x'], first)} is not worse than {reference} ({points(row)} points)"
        times = {(r["model"], r["members"]): r["milliseconds"] for r in self.latency if r["batch_size"] == 1}
        ours, theirs = times.get((first, row["x"])), times.get((reference, 1))
        if ours is not None and theirs is not None:
            words += f", {theirs / ours:.1f} times as fast for a single text"
        return [words + "."]

    def _mixed_sentences(self, task: str) -> list[str]:
        """What it is worth that members are of several recipes."""
        first = self.plan.first_member
        rows = self.all(finding=COMMITTEE, task=task, measure=f"difference from as many {first}")
        return [
            f"On {task}, {row['model'].removeprefix('mixed: ')} together differ from {_committee(row['x'], first)} "
            f"by {points(row)} points ({_verdict(row, 'the mix is above', 'the mix is below').split(',')[0]})."
            for row in rows
            if row["model"].startswith("mixed")
        ]

    def _baseline_sentences(self, task: str) -> list[str]:
        """How far the largest committee is from what a practitioner would take, and what would close a gap."""
        first, recipe = self.plan.first_member, self.plan.corpus_size["recipe"]
        rise = self.find(finding=CORPUS_SIZE, task=task, model=f"{recipe}, equal epochs", x="slope")
        sentences = []
        for baseline in BASELINE_NAMES.values():
            rows = self.all(
                finding=COMMITTEE, task=task, model=f"committee of {first}", measure=f"difference from {baseline}"
            )
            if not rows:
                continue
            row = rows[-1]
            words = f"On {task}, {_committee(row['x'], first)} differs from {baseline} by {points(row)} points "
            words += f"({_verdict({**row, 't_low': None}, 'above it', 'below it').split(',')[0]})"
            if row["high"] < 0 and rise is not None and rise["low"] > 0:
                doublings = -row["estimate"] / rise["estimate"]
                words += (
                    f"; one encoder gains {points(rise)} points with each doubling of text and steps together, so "
                    f"{doublings:.1f} doublings would close that if it went on so, which was not measured"
                )
            sentences.append(words + ".")
        return sentences


def _changes(task: str, row: Row | None, words: str, positive: str, negative: str) -> list[str]:
    """The sentence of one difference, or none where it was not measured."""
    if row is None:
        return []
    return [f"On {task}, {words} by {points(row)} points ({_verdict(row, positive, negative)})."]


def _committee(count: int, member: str) -> str:
    return f"one {member}" if count == 1 else f"a committee of {count} {member}"


def _verdict(row: Row, positive: str, negative: str) -> str:
    """What both intervals say together."""
    intervals = [(row["low"], row["high"])]
    if row["t_low"] is not None:
        intervals.append((row["t_low"], row["t_high"]))
    signs = {1 if low > 0 else -1 if high < 0 else 0 for low, high in intervals}
    if signs == {0}:
        return "no difference is shown"
    if len(signs) > 1:
        return f"the t-interval over {row['seeds']} seeds, {t_points(row)}, says otherwise, so no difference is shown"
    words = positive if signs == {1} else negative
    return words if row["t_low"] is not None else f"{words}, for the one seed there is"
