"""What the study's rows say, one plain sentence each, and how their numbers are written."""

from collections.abc import Callable, Sequence
from math import log2
from typing import Any

from .findings import ALL_TASKS, BASELINE_NAMES, HIGH_LOW, HIGH_RANDOM, WITHOUT_COLLAPSED, Row
from .plan import COMMITTEE, CORPUS_SIZE, GAP, OVERLAP
from .plan_file import SizePlan


def percent(row: Row | None) -> str:
    """`85.6 [84.1, 87.0]`, in percent of the test texts."""
    if row is None:
        return ""
    return f"{100 * row['estimate']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def points(row: Row | None) -> str:
    """`+3.1 [+1.0, +5.2]`, in percentage points."""
    if row is None:
        return ""
    return f"{100 * row['estimate']:+.1f} [{_bound(row['low'])}, {_bound(row['high'])}]"


def _bound(share: float) -> str:
    """An end of an interval in percentage points; with more digits where it would round to 0, which decides."""
    value = 100 * share
    return f"{value:+.1f}" if abs(value) >= 0.05 else f"{value:+.3f}"


def runs(row: Row | None) -> str:
    """`10 and 7`: independent runs of each side."""
    return "" if row is None else " and ".join(map(str, row["runs"]))


def t_points(row: Row | None) -> str:
    """The t-interval over seeds, in percentage points."""
    if row is None:
        return ""
    if row["t_low"] is None:
        return "one run"
    return f"[{_bound(row['t_low'])}, {_bound(row['t_high'])}]"


class Sentences:
    """What the rows show, in words (see `findings`).

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
        said = {name: [words for task in self.tasks for words in make(task)] for name, make in makers.items()}
        said[GAP] += [words for task in self.tasks for words in self._single_sentences(task)]
        said[OVERLAP] += self._overlap_sentences(ALL_TASKS)
        return said

    def _gap_sentences(self, task: str) -> list[str]:
        sentences = []
        for model in self.plan.gap_models():
            of = {"finding": GAP, "task": task, "model": model}
            sentences += _changes(
                f"On {task}", self.find(**of, x="gap"),
                f"pre-training changes the accuracy of {model}", "it pays", "it costs",
            )  # fmt: skip
            learnt = self.find(**of, x=WITHOUT_COLLAPSED)
            if learnt is not None:
                sentences += _changes(
                    f"On {task}", learnt, f"without {_collapsed(learnt)}, pre-training changes that of {model}",
                    "it pays", "it costs",
                )  # fmt: skip
        return sentences

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
                f"On {task}",
                row,
                f"at equal {equal}, each doubling of the corpus changes the gap",
                "it rises",
                "it falls",
            )
        ]

    def _single_sentences(self, task: str) -> list[str]:
        """One pre-trained encoder against what a practitioner would take."""
        sentences = []
        for model in self.plan.gap_models():
            for name in BASELINE_NAMES.values():
                row = self.find(finding=GAP, task=task, model=model, measure=f"difference from {name}")
                if row is not None:
                    sentences.append(
                        f"On {task}, one pre-trained {model} differs from {name} by {points(row)} points "
                        f"({_side(row, 'above it', 'below it')})."
                    )
        return sentences

    def _overlap_sentences(self, task: str) -> list[str]:
        where = "Over all tasks" if task == ALL_TASKS else f"On {task}"
        return [
            sentence
            for name, other in ((HIGH_LOW, "low"), (HIGH_RANDOM, "random"))
            for sentence in _changes(
                where, self.find(finding=OVERLAP, task=task, x=name),
                f"text of high overlap instead of {other} changes the accuracy", "overlap pays", "overlap costs",
            )
        ]  # fmt: skip

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
        words = f"On {task}, {_committee(row['x'], first)} is not worse than {reference} of this budget "
        words += f"({points(row)} points)"
        times = {(r["model"], r["members"]): r["milliseconds"] for r in self.latency if r["batch_size"] == 1}
        ours, theirs = times.get((first, row["x"])), times.get((reference, 1))
        if ours is not None and theirs is not None:
            words += f", {theirs / ours:.1f} times as fast for a single text"
        deep = row["runs"][-1]
        return [words + (f", for the one {reference} there is." if deep == 1 else f" ({deep} of them).")]

    def _mixed_sentences(self, task: str) -> list[str]:
        """What it is worth that members are of several recipes."""
        first = self.plan.first_member
        rows = self.all(finding=COMMITTEE, task=task, measure=f"difference from as many {first}")
        return [
            f"On {task}, {row['model'].removeprefix('mixed: ')} together differ from {_committee(row['x'], first)} "
            f"by {points(row)} points ({_side(row, 'the mix is above', 'the mix is below')}; {_members(row)})."
            for row in rows
            if row["model"].startswith("mixed")
        ]

    def _baseline_sentences(self, task: str) -> list[str]:
        """How far the largest committees are from what a practitioner would take, and what would close a gap."""
        first, longer, recipe = self.plan.first_member, self.plan.longer_name, self.plan.corpus_size["recipe"]
        rise = self.find(finding=CORPUS_SIZE, task=task, model=f"{recipe}, equal epochs", x="slope")
        of = {"finding": COMMITTEE, "task": task, "model": f"committee of {longer}", "x": 1}
        more = self.find(**of, measure=f"difference from as many {first}") if longer else None
        baselines = list(BASELINE_NAMES.values())
        if more is None:
            bought = "with each doubling of text and steps together"
            return self._differences(task, first, baselines, rise, 1.0, bought)
        doublings = log2(self.plan.longer["max_steps"] / self.plan.pretraining[first]["max_steps"])
        bought = f"from {doublings:.3g} doublings of the steps"
        plain = f"{self.plan.committee['members'][first]} {first}"
        return [
            *self._differences(task, first, baselines),
            *self._differences(task, longer, [plain, *baselines], more, doublings, bought),
        ]

    def _differences(
        self, task: str, member: str, sides: Sequence[str], rise: Row | None = None, doublings: float = 1.0,
        bought: str = "",
    ) -> list[str]:  # fmt: skip
        """The largest committee of a member against others, and what would close a gap.

        Args:
            task: of the rows.
            member: as its committees are named.
            sides: what it is held against.
            rise: what one encoder gained; None where nothing is to be said of that.
            doublings: of what was `bought`, from which it gained that.
            bought: in words.
        """
        sentences = []
        for side in sides:
            rows = self.all(
                finding=COMMITTEE, task=task, model=f"committee of {member}", measure=f"difference from {side}"
            )
            if not rows:
                continue
            row = rows[-1]
            words = f"On {task}, {_committee(row['x'], member)} differs from {side} by {points(row)} points "
            words += f"({_side(row, 'above it', 'below it')})"
            if row["high"] < 0 and rise is not None and rise["low"] > 0:
                fewest, most = (-row["estimate"] * doublings / rise[end] for end in ("high", "low"))
                words += (
                    f"; one encoder gains {points(rise)} points {bought}, so {fewest:.1f} to {most:.1f} doublings "
                    "would close that, if committees gain as one encoder does and the rise goes on: neither was "
                    "measured"
                )
            sentences.append(words + ".")
        return sentences


def _changes(where: str, row: Row | None, words: str, positive: str, negative: str) -> list[str]:
    """The sentence of one difference, or none where it was not measured."""
    if row is None:
        return []
    return [f"{where}, {words} by {points(row)} points ({_verdict(row, positive, negative)})."]


def _collapsed(row: Row) -> str:
    """`1 run from scratch that did not learn (NAME)`."""
    words = {"pretrained": "pre-trained", "scratch": "from scratch"}
    names = {words[arm]: found for arm, found in row["collapsed"].items() if found}
    counts = [f"{len(found)} {'run' if len(found) == 1 else 'runs'} {arm}" for arm, found in names.items()]
    return (
        f"{' and '.join(counts)} that did not learn ({', '.join(name for found in names.values() for name in found)})"
    )


def _committee(count: int, member: str) -> str:
    return f"one {member}" if count == 1 else f"a committee of {count} {member}"


def _members(row: Row) -> str:
    """How many members of each recipe stand behind a mixed committee."""
    recipes = row["model"].removeprefix("mixed: one each of ").split(", ")
    return (
        ", ".join(f"{count} {recipe}" for count, recipe in zip(row["runs"], recipes, strict=True)) + " to choose from"
    )


def _side(row: Row, positive: str, negative: str) -> str:
    """What the bootstrap says where there is no t-interval to ask, since one side has a single run."""
    return positive if row["low"] > 0 else negative if row["high"] < 0 else "no difference is shown"


def _verdict(row: Row, positive: str, negative: str) -> str:
    """What both intervals say together."""
    signs = [_side({"low": low, "high": high}, positive, negative) for low, high in _intervals(row)]
    if len(set(signs)) > 1:
        return f"the t-interval over {runs(row)} runs, {t_points(row)}, says otherwise, so no difference is shown"
    alone = row["t_low"] is None and signs[0] in (positive, negative)
    return f"{signs[0]}, for the one run there is" if alone else signs[0]


def _intervals(row: Row) -> list[tuple[float, float]]:
    found = [(row["low"], row["high"])]
    return found if row["t_low"] is None else [*found, (row["t_low"], row["t_high"])]
