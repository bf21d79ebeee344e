"""From the records of the study to the rows of its findings; nothing runs or is looked up elsewhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.overlap_subsets import KINDS
from ..errors import UserError
from ..evaluation.scoring import unpack_logits
from ..runs.atomic_files import Json
from ..training.finetune import LOGITS_FILE
from .estimates import (
    Estimate,
    committees_right,
    estimate,
    first_not_worse,
    mean_difference,
    one_of_each,
    slope,
    subsets,
)
from .execute import Record
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP, Planner, StudyRun
from .plan_file import ARMS, BASELINE_NAMES

NOT_WORSE = 0.01
"""A committee is not worse than the deep encoder when the interval of the difference lies above minus this."""
COLLAPSED = 0.2
"""A run did not learn when its validation accuracy is this far below that of the run that chose its rate."""
ALL_TASKS = "mean of the tasks"
OTHER_SEEDS = "gap, other seeds"
"""The gap without the runs whose validation accuracy chose the rates: their test accuracy may be flattered."""
WITHOUT_COLLAPSED = "gap, without collapsed runs"
ALL_MEMBERS, MIXED = "all members", "mixed"
Logits = tuple[np.ndarray, np.ndarray]
"""Logits and labels."""
Right = dict[int, np.ndarray]
"""Right or wrong by seed, float (items,) each."""


@dataclass(frozen=True)
class Row:
    """One estimate of a finding, as a share of the test texts; `seeds` are the runs of the side that has fewer.

    Some have `measures` (a subset's overlap with the task), the names of `collapsed` runs that were left out, or the
    model of the latency rows that has their time (`timed_as`).
    """

    finding: str
    task: str
    model: str
    x: Any
    measure: str
    estimate: float
    low: float
    high: float
    seeds: int
    runs: list[int]
    t_low: float | None
    t_high: float | None
    measures: dict[str, float] | None = None
    collapsed: list[str] | None = None
    timed_as: str | None = None


def make_row(finding: str, task: str, model: str, x: Any, measure: str, found: Estimate, **more: Any) -> Row:
    """A row with values rounded to a ten-thousandth of a point: further digits vary with a machine's order of sums."""
    value, low, high = (round(end, 6) for end in (found.value, found.low, found.high))
    t_low, t_high = (None if end is None else round(end, 6) for end in (found.t_low, found.t_high))
    runs = list(found.runs)
    return Row(finding, task, model, x, measure, value, low, high, min(runs), runs, t_low, t_high, **more)


def difference_from(side: str) -> str:
    """Name of the measure of a difference."""
    return f"difference from {side}"


def committee_of(member: str) -> str:
    """Name of committees of one model."""
    return f"committee of {member}"


@dataclass(frozen=True)
class Committees:
    """Committees of so many `members`: by size what all of them have right, float (committees, items)."""

    model: str
    timed_as: str | None
    members: int
    right: dict[int, np.ndarray]


class Findings:
    """The rows of a study, as far as its records go, which lie in a folder."""

    def __init__(self, planner: Planner, records: Mapping[str, Record], folder: Path) -> None:
        self.plan, self.planner, self.records, self.folder = planner.plan, planner, records, folder
        self._answers: dict[str, Logits] = {}
        self._labels: dict[str, tuple[str, np.ndarray]] = {}

    def rows(self) -> list[Row]:
        """Rows of all findings, in order."""
        parts = (self.gap, self.corpus_size, self.overlap, self.committee, self.baselines)
        return [row for part in parts for row in part()]

    def latency(self) -> list[Json]:
        """`model`, `members`, `batch_size`, `milliseconds` of each; empty before the latency was measured."""
        record = self.records.get(self.planner.latency.name)
        return [] if record is None else list(record.results["rows"])

    def _test(self, run: StudyRun) -> Logits | None:
        """Test logits (items, classes) and labels (items,); None where the run has no record."""
        name = run.name
        if name not in self.records:
            return None
        if name not in self._answers:
            with np.load(self.folder / name / LOGITS_FILE, allow_pickle=False) as stored:
                logits, labels = unpack_logits(stored["test"]), stored["test_labels"].astype(int)
            first, expected = self._labels.setdefault(run.settings["task"], (name, labels))
            if not np.array_equal(labels, expected):
                raise UserError(
                    f"The runs {first} and {name} have other test texts and cannot be compared: delete the records "
                    "made with other data, and the study makes them again."
                )
            self._answers[name] = logits, labels
        return self._answers[name]

    def correct(self, run: StudyRun) -> np.ndarray | None:
        """Which test items a run has right, float (items,); None where it has no record."""
        answers = self._test(run)
        return None if answers is None else (answers[0].argmax(axis=-1) == answers[1]).astype(float)

    def _right(self, runs: Mapping[int, Sequence[StudyRun]], without: Sequence[str] = ()) -> Right:
        """By seed the share of its fine-tunings that are right; seeds without any are left out."""
        rows: Right = {}
        for seed, several in runs.items():
            answers = [self.correct(run) for run in several if run.name not in without]
            done = [right for right in answers if right is not None]
            if done:
                rows[seed] = np.mean(done, axis=0)
        return rows

    def _together(self, runs: Iterable[StudyRun]) -> Logits | None:
        """Test logits (items, members, classes) and labels (items,) of members; None without any."""
        answers = [answer for answer in map(self._test, runs) if answer is not None]
        return (np.stack([logits for logits, _ in answers], axis=1), answers[0][1]) if answers else None

    def _baselines(self, task: str) -> dict[str, np.ndarray]:
        """Right or wrong of the baselines that have records, (1, items) each."""
        answers = {BASELINE_NAMES[run.kind]: self.correct(run) for run in self.planner.baselines(task)}
        return {name: right[None] for name, right in answers.items() if right is not None}

    def arms(self, model: str, task: str) -> dict[str, dict[int, list[StudyRun]]]:
        """By arm and seed the runs of finding a: pre-trained on the whole corpus (members too) and from scratch."""
        recipe = self.plan.first_member if model == self.plan.longer_name else model
        seeds = [seed for several in self.planner.gap_seeds.values() for seed in several]
        encoders = self.planner.encoders(model)
        return {
            "pretrained": {s: self.planner.tuned(recipe, task, *encoder) for s, encoder in encoders.items()},
            "scratch": {seed: self.planner.tuned(recipe, task, None, [seed]) for seed in seeds},
        }

    def scratch(self, recipe: str, task: str) -> Right:
        """What the encoders from scratch have right."""
        return self._right(self.arms(recipe, task)["scratch"])

    def _collapsed(self, model: str, task: str, arms: dict[str, dict[int, list[StudyRun]]]) -> list[str]:
        """The runs of both arms that did not learn (`COLLAPSED`): by validation, not by what is reported."""
        recipe = self.plan.first_member if model == self.plan.longer_name else model
        validation, names = self.planner.validation, []
        for arm, by_seed in arms.items():
            tries = [run for runs in self.planner.candidates(recipe, task, arm).values() for run in runs]
            best = max(validation.get(run.name, 0.0) for run in tries)
            tuned = [run.name for runs in by_seed.values() for run in runs]
            names += [name for name in tuned if validation.get(name, best) < best - COLLAPSED]
        return names

    def gap(self) -> Iterator[Row]:
        """Finding a: both arms, their difference, that without some runs, and that from the baselines."""
        for task in self.plan.tasks:
            for model in self.plan.gap_models:
                arms = self.arms(model, task)
                ours, theirs = (self._right(arms[arm]) for arm in ARMS)
                if not ours or not theirs:
                    continue
                for arm, right in zip(ARMS, (ours, theirs), strict=True):
                    yield make_row(GAP, task, model, arm, "accuracy", estimate(_stack(right)))
                yield make_row(GAP, task, model, "gap", "gap", estimate(_stack(ours), _stack(theirs)))
                others = [seed for seed in ours if seed > 0], [s for s in theirs if s >= self.plan.rates.seeds]
                if all(others):
                    left = estimate(_stack(ours, others[0]), _stack(theirs, others[1]))
                    yield make_row(GAP, task, model, OTHER_SEEDS, "gap", left)
                collapsed = self._collapsed(model, task, arms)
                learnt = [self._right(arms[arm], collapsed) for arm in ARMS]
                if collapsed and all(learnt):
                    left = estimate(*map(_stack, learnt))
                    yield make_row(GAP, task, model, WITHOUT_COLLAPSED, "gap", left, collapsed=collapsed)
                for name, other in self._baselines(task).items():
                    yield make_row(GAP, task, model, ARMS[0], difference_from(name), estimate(_stack(ours), other))

    def _of_encoders(self, recipe: str, task: str, encoders: Sequence[StudyRun]) -> Right:
        """What encoders of other corpora, one of each seed, have right with one fine-tuning seed each."""
        seeds = self.planner.seeds(len(encoders))
        return self._right({seed: self.planner.tuned(recipe, task, encoders[seed], seeds[seed]) for seed in seeds})

    def corpus_size(self) -> Iterator[Row]:
        """Finding b: the gap at each size of the corpus, at equal steps and at equal epochs, and its slope."""
        recipe, seeds = self.plan.corpus_size.recipe, range(self.plan.corpus_size.pretraining_seeds)
        for task in self.plan.tasks:
            scratch = self.scratch(recipe, task)
            for equal in ("steps", "epochs") if scratch else ():
                model, points = f"{recipe}, equal {equal}", {}
                for texts, kind, steps in self.planner.corpus_steps():
                    changes: Json = {"num_texts": texts, "max_steps": steps}
                    encoders = [self.planner.pretraining(recipe, seed, **changes) for seed in seeds]
                    found = self._of_encoders(recipe, task, encoders) if kind == equal else {}
                    if found:
                        points[texts] = found
                        gap = estimate(_stack(found), _stack(scratch))
                        yield make_row(CORPUS_SIZE, task, model, texts, "gap", gap)
                        yield make_row(CORPUS_SIZE, task, model, texts, "accuracy", estimate(_stack(found)))
                # Over the seeds that all sizes have: another seed would count as another size.
                common = _common(*points.values()) if len(points) > 1 else []
                if common:
                    rise = slope(np.log2(list(points)).tolist(), [_stack(found, common) for found in points.values()])
                    yield make_row(CORPUS_SIZE, task, model, "slope", "gap per doubling", rise)

    def overlap(self) -> Iterator[Row]:
        """Finding c: the gap by subset, x being the Jensen-Shannon divergence from the task; high less the others."""
        recipe, seeds = self.plan.overlap.recipe, range(self.plan.overlap.pretraining_seeds)
        record = self.records.get(self.planner.subsets.name)
        if record is None:
            return
        pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"high - low": [], "high - random": []}
        for task in self.plan.tasks:
            scratch = self.scratch(recipe, task)
            right: dict[str, Right] = {}
            for kind in KINDS:
                encoders = [self.planner.on_subset(task, kind, seed) for seed in seeds]
                right[kind] = self._of_encoders(recipe, task, encoders) if scratch else {}
                if right[kind]:
                    measures = record.results["measures"][task][kind]["train"]
                    gap, x = estimate(_stack(right[kind]), _stack(scratch)), measures["jensen_shannon_bits"]
                    yield make_row(OVERLAP, task, f"{recipe}, {kind} overlap", x, "gap", gap, measures=measures)
            for name, several in pairs.items():
                other = right[name.removeprefix("high - ")]
                common = _common(right["high"], other)
                if common:
                    several.append((_stack(right["high"], common), _stack(other, common)))
                    yield make_row(OVERLAP, task, recipe, name, "difference", estimate(*several[-1], paired=True))
        for name, several in pairs.items():
            if len(several) > 1:
                yield make_row(OVERLAP, ALL_TASKS, recipe, name, "difference", mean_difference(several))

    def members(self, task: str) -> dict[str, Logits]:
        """By recipe the members' test logits (items, members, classes) and the labels (items,)."""
        recipes = self.plan.committee.members
        answers = {recipe: self._together(self.planner.members(recipe, task)) for recipe in recipes}
        return {recipe: answer for recipe, answer in answers.items() if answer is not None}

    def _committees(self, task: str) -> Iterator[Committees]:
        """Those of the first recipe, one of each other, mixed ones, and those with more pre-training steps."""
        first, members = self.plan.first_member, self.members(task)
        if first not in members:
            return
        for recipe, (logits, labels) in members.items():
            sizes = _all_sizes(logits, labels)
            if recipe == first:
                yield Committees(committee_of(first), first, len(sizes), sizes)
            else:
                yield Committees(recipe, recipe, len(sizes), {1: sizes[1]})
        if len(members) > 1:
            counts = [logits.shape[1] for logits, _ in members.values()]
            together, total = np.concatenate([logits for logits, _ in members.values()], axis=1), sum(counts)
            whole = committees_right(together, labels, [tuple(range(total))])
            yield Committees(ALL_MEMBERS, None, total, {total: whole})
            mixed = committees_right(together, labels, one_of_each(counts))
            yield Committees(f"mixed: one each of {', '.join(members)}", MIXED, total, {len(counts): mixed})
        if self.plan.longer_name:
            runs = self.arms(self.plan.longer_name, task)["pretrained"].values()
            answers = self._together(run for several in runs for run in several)
            sizes = {} if answers is None else _all_sizes(*answers)
            yield Committees(committee_of(self.plan.longer_name), first, len(sizes), sizes)

    def committee(self) -> Iterator[Row]:
        """Finding d: accuracy against the number of members, against deep encoder, plain committees and baselines."""
        reference = self.plan.committee.reference
        for task in self.plan.tasks:
            runs = self._right(self.arms(reference, task)["pretrained"])
            deep = {reference: _stack(runs)} if runs else {}
            for name, right in deep.items():
                yield make_row(COMMITTEE, task, name, 1, "accuracy", estimate(right), timed_as=name)
            groups = list(self._committees(task))
            for group in groups:
                rows = list(self._compared(task, group, groups[0], deep | self._baselines(task)))
                yield from rows
                if group is groups[0]:
                    curve = [row for row in rows if row.measure == difference_from(reference)]
                    for words, margin in (("not worse", NOT_WORSE), ("better", 0.0)):
                        smallest = first_not_worse([row.low for row in curve], margin)
                        if smallest is not None:
                            yield replace(curve[smallest - 1], measure=f"smallest that is {words}")

    def _compared(
        self, task: str, group: Committees, plain: Committees, others: Mapping[str, np.ndarray]
    ) -> Iterator[Row]:
        """Accuracy of committees, and its differences from other models and from plain committees."""
        first, most = self.plan.first_member, plain.members
        for count, right in group.right.items():
            found = replace(estimate(right, single=True), runs=(group.members,))
            yield make_row(COMMITTEE, task, group.model, count, "accuracy", found, timed_as=group.timed_as)
            for name, other in others.items():
                found = replace(estimate(right, other, single=True), runs=(group.members, len(other)))
                yield make_row(COMMITTEE, task, group.model, count, difference_from(name), found)
            sides = {f"as many {first}": count, f"{most} {first}": most} if group is not plain else {}
            for name, size in sides.items():
                if size in plain.right:
                    found = estimate(right, plain.right[size], single=True, single_theirs=True)
                    found = replace(found, runs=(group.members, most))
                    yield make_row(COMMITTEE, task, group.model, count, difference_from(name), found)

    def baselines(self) -> Iterator[Row]:
        """The baselines' accuracies."""
        for task in self.plan.tasks:
            for name, right in self._baselines(task).items():
                yield make_row(BASELINES, task, name, None, "accuracy", estimate(right))


def _all_sizes(logits: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    """What all committees of 1, 2, ... of the members have right (see `committees_right`)."""
    members = logits.shape[1]
    return {count: committees_right(logits, labels, subsets(members, count)) for count in range(1, members + 1)}


def _common(*sides: Right) -> list[int]:
    """The seeds that all sides have."""
    return sorted(set.intersection(*map(set, sides)))


def _stack(rows: Right, seeds: Sequence[int] | None = None) -> np.ndarray:
    """Rows by seed as (runs, items): all of them, or those of some seeds."""
    return np.stack([rows[seed] for seed in (rows if seeds is None else seeds)])
