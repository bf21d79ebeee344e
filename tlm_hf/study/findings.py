"""From the records of the study to the rows of its four findings; nothing runs or is looked up elsewhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.overlap_subsets import KINDS
from ..errors import UserError
from ..evaluation.scoring import unpack_logits
from ..runs.atomic_files import Json
from ..training.finetune import LOGITS_FILE
from .estimates import (
    Estimate,
    Row,
    accuracy,
    committee_curve,
    committees_right,
    difference,
    first_not_worse,
    make_row,
    mean_difference,
    one_of_each,
    slope,
    subsets,
)
from .execute import Record
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, OVERLAP, Planner, StudyRun
from .plan_file import ARMS

NOT_WORSE = 0.01
"""A committee is not worse than the deep encoder when the interval of the difference lies above minus this."""
COLLAPSED = 0.2
"""A run did not learn when its validation accuracy is this far below that of the run that chose its rate."""
ALL_TASKS = "mean of the tasks"
COMPARED_SUBSETS = {"high - low": "low", "high - random": "random"}
OTHER_SEEDS = "gap, other seeds"
"""The gap without the runs whose validation accuracy chose the rates: their test accuracy may be flattered."""
WITHOUT_COLLAPSED = "gap, without collapsed runs"
ALL_MEMBERS, MIXED = "all members", "mixed"
BASELINE_NAMES = {"tfidf": "TF-IDF + logistic regression", "sentence": "frozen MiniLM-L6 + logistic regression"}
Logits = tuple[np.ndarray, np.ndarray]
"""Logits and labels."""
Right = dict[int, np.ndarray]
"""Right or wrong by seed, float (items,) each."""


def difference_from(side: str) -> str:
    """Name of the measure of a difference."""
    return f"difference from {side}"


def committee_of(member: str) -> str:
    """Name of committees of one model."""
    return f"committee of {member}"


@dataclass(frozen=True)
class _Sides:
    """What the committees of a task are compared with: plain ones of 1, 2, ... members, and the deep encoder."""

    alike: list[np.ndarray]
    deep: np.ndarray | None


class Findings:
    """The rows of a study, as far as its records go, which lie in a folder."""

    def __init__(self, planner: Planner, records: Mapping[str, Record], folder: Path) -> None:
        self.plan, self.planner, self.records, self.folder = planner.plan, planner, records, folder
        self._answers: dict[str, Logits] = {}
        self._labels: dict[str, tuple[str, np.ndarray]] = {}

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

    def _together(self, runs: Iterable[StudyRun]) -> Logits | None:
        """Test logits (items, members, classes) and labels (items,) of members; None without any."""
        answers = [answer for run in runs if (answer := self._test(run)) is not None]
        return (np.stack([logits for logits, _ in answers], axis=1), answers[0][1]) if answers else None

    def rows(self) -> list[Row]:
        """Rows of all findings, in order."""
        parts = (self.gap, self.corpus_size, self.overlap, self.committee, self.baselines)
        return [row for part in parts for row in part()]

    def latency(self) -> list[Json]:
        """`model`, `members`, `batch_size`, `milliseconds` of each; empty before the latency was measured."""
        record = self.records.get(self.planner.latency.name)
        return [] if record is None else list(record.results["rows"])

    def _right(self, runs: Mapping[int, Sequence[StudyRun]], without: Sequence[str] = ()) -> Right:
        """By seed the share of its fine-tunings that are right; seeds without any are left out."""
        rows: Right = {}
        for seed, several in runs.items():
            answers = [self.correct(run) for run in several if run.name not in without]
            done = [right for right in answers if right is not None]
            if done:
                rows[seed] = np.mean(done, axis=0)
        return rows

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

    def collapsed(self, recipe: str, task: str, arm: str, runs: Mapping[int, list[StudyRun]]) -> list[str]:
        """The runs that did not learn (`COLLAPSED`): by validation, not by what is reported."""
        validation = self.planner.validation
        best = max((validation.get(run.name, 0.0) for run in self.planner.candidates(recipe, task, arm)), default=0.0)
        names = [run.name for several in runs.values() for run in several]
        return [name for name in names if validation.get(name, best) < best - COLLAPSED]

    def gap(self) -> Iterator[Row]:
        """Finding a: both arms, their difference, that without some runs, and that from the baselines."""
        for model in self.plan.gap_models:
            recipe = self.plan.first_member if model == self.plan.longer_name else model
            for task in self.plan.tasks:
                arms = self.arms(model, task)
                ours, theirs = (self._right(arms[arm]) for arm in ARMS)
                if not ours or not theirs:
                    continue
                for arm, right in zip(ARMS, (ours, theirs), strict=True):
                    yield make_row(GAP, task, model, arm, "accuracy", accuracy(_stack(right)))
                yield make_row(GAP, task, model, "gap", "gap", difference(_stack(ours), _stack(theirs)))
                rest = [{seed: row for seed, row in right.items() if seed > 0} for right in (ours, theirs)]
                if all(rest):
                    left = difference(_stack(rest[0]), _stack(rest[1]))
                    yield make_row(GAP, task, model, OTHER_SEEDS, "gap", left)
                collapsed = [name for arm in ARMS for name in self.collapsed(recipe, task, arm, arms[arm])]
                learnt = [self._right(arms[arm], collapsed) for arm in ARMS]
                if collapsed and all(learnt):
                    left = difference(_stack(learnt[0]), _stack(learnt[1]))
                    yield make_row(GAP, task, model, WITHOUT_COLLAPSED, "gap", left, collapsed=collapsed)
                for name, other in self._baselines(task).items():
                    yield make_row(GAP, task, model, ARMS[0], difference_from(name), difference(_stack(ours), other))

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
                        gap = difference(_stack(found), _stack(scratch))
                        yield make_row(CORPUS_SIZE, task, model, texts, "gap", gap)
                        yield make_row(CORPUS_SIZE, task, model, texts, "accuracy", accuracy(_stack(found)))
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
        pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in COMPARED_SUBSETS}
        for task in self.plan.tasks:
            scratch = self.scratch(recipe, task)
            right: dict[str, Right] = {}
            for kind in KINDS:
                encoders = [self.planner.on_subset(task, kind, seed) for seed in seeds]
                right[kind] = self._of_encoders(recipe, task, encoders) if scratch else {}
            for kind, found in right.items():
                if found:
                    measures = record.results["measures"][task][kind]["train"]
                    gap = difference(_stack(found), _stack(scratch))
                    model, divergence = f"{recipe}, {kind} overlap", measures["jensen_shannon_bits"]
                    yield make_row(OVERLAP, task, model, divergence, "gap", gap, measures=measures)
            for name, other in COMPARED_SUBSETS.items():
                common = _common(right["high"], right[other])
                if common:
                    pair = _stack(right["high"], common), _stack(right[other], common)
                    pairs[name].append(pair)
                    yield make_row(OVERLAP, task, recipe, name, "difference", difference(*pair, paired=True))
        for name, several in pairs.items():
            if len(several) > 1:
                yield make_row(OVERLAP, ALL_TASKS, recipe, name, "difference", mean_difference(several))

    def members(self, task: str) -> dict[str, Logits]:
        """By recipe the members' test logits (items, members, classes) and the labels (items,)."""
        recipes = self.plan.committee.members
        answers = {recipe: self._together(self.planner.members(recipe, task)) for recipe in recipes}
        return {recipe: answer for recipe, answer in answers.items() if answer is not None}

    def committee(self) -> Iterator[Row]:
        """Finding d: accuracy against the number of members, against the deep encoder and the baselines."""
        first, reference = self.plan.first_member, self.plan.committee.reference
        for task in self.plan.tasks:
            members = self.members(task)
            right = self._right(self.arms(reference, task)["pretrained"])
            deep = _stack(right) if right else None
            if deep is not None:
                yield make_row(COMMITTEE, task, reference, 1, "accuracy", accuracy(deep), timed_as=reference)
            if first not in members:
                continue
            sides = _Sides(_all_sizes(*members[first]), deep)
            yield from self._plain(task, sides)
            for recipe, answers in members.items():
                if recipe != first:
                    alone = accuracy(committees_right(*answers, subsets(answers[0].shape[1], 1)))
                    yield make_row(COMMITTEE, task, recipe, 1, "accuracy", alone, timed_as=recipe)
            if len(members) > 1:
                yield from self._mixed(task, members, sides)
            if self.plan.longer_name:
                yield from self._longer(task, sides)

    def _plain(self, task: str, sides: _Sides) -> Iterator[Row]:
        """Committees of the first recipe."""
        first, reference, count_all = self.plan.first_member, self.plan.committee.reference, len(sides.alike)
        name = committee_of(first)
        for count, estimate in enumerate(committee_curve(sides.alike), 1):
            yield make_row(COMMITTEE, task, name, count, "accuracy", estimate, timed_as=first)
        if sides.deep is not None:
            curve = committee_curve(sides.alike, sides.deep)
            for count, estimate in enumerate(curve, 1):
                yield make_row(COMMITTEE, task, name, count, difference_from(reference), estimate)
            for words, margin in (("not worse", NOT_WORSE), ("better", 0.0)):
                smallest = first_not_worse(curve, margin)
                if smallest is not None:
                    measure = f"smallest that is {words}"
                    yield make_row(COMMITTEE, task, name, smallest, measure, curve[smallest - 1])
        for side, other in self._baselines(task).items():
            estimate = replace(difference(sides.alike[-1], other), runs=(count_all, 1))
            yield make_row(COMMITTEE, task, name, count_all, difference_from(side), estimate)

    def _mixed(self, task: str, members: dict[str, Logits], sides: _Sides) -> Iterator[Row]:
        """Committees of several recipes: all members there are, and one of each recipe, whichever of its members."""
        counts = [logits.shape[1] for logits, _ in members.values()]
        total = sum(counts)
        together = np.concatenate([logits for logits, _ in members.values()], axis=1)
        labels = members[self.plan.first_member][1]
        whole = committees_right(together, labels, [tuple(range(total))])
        yield from self._compared(task, ALL_MEMBERS, total, whole, (total,), sides, None)
        mixed = committees_right(together, labels, one_of_each(counts))
        model = f"mixed: one each of {', '.join(members)}"
        yield from self._compared(task, model, len(counts), mixed, tuple(counts), sides, MIXED)

    def _longer(self, task: str, sides: _Sides) -> Iterator[Row]:
        """Committees of the first recipe with more pre-training, also against all of its plain members together."""
        first, name, count_all = self.plan.first_member, committee_of(self.plan.longer_name), len(sides.alike)
        runs = self.arms(self.plan.longer_name, task)["pretrained"].values()
        answers = self._together(run for several in runs for run in several)
        sizes = [] if answers is None else _all_sizes(*answers)
        for count, right in enumerate(sizes, 1):
            yield from self._compared(task, name, count, right, (len(sizes),), sides, first)
            whole = replace(difference(right, sides.alike[-1], single=True), runs=(len(sizes),))
            yield make_row(COMMITTEE, task, name, count, difference_from(f"{count_all} {first}"), whole)

    def _compared(
        self,
        task: str,
        model: str,
        count: int,
        right: np.ndarray,
        runs: tuple[int, ...],
        sides: _Sides,
        timed: str | None,
    ) -> Iterator[Row]:
        """Accuracy of committees of `count` members, and its differences from plain ones, baselines, deep encoder."""
        estimates: dict[str, Estimate] = {}
        if count <= len(sides.alike):
            as_many = difference(right, sides.alike[count - 1], single=True, single_theirs=True)
            estimates[f"as many {self.plan.first_member}"] = as_many
        for side, other in self._baselines(task).items():
            estimates[side] = difference(right, other, single=True)
        if sides.deep is not None:
            estimates[self.plan.committee.reference] = difference(right, sides.deep, single=True)
        own = replace(accuracy(right, single=True), runs=runs)
        yield make_row(COMMITTEE, task, model, count, "accuracy", own, timed_as=timed)
        for side, estimate in estimates.items():
            yield make_row(COMMITTEE, task, model, count, difference_from(side), replace(estimate, runs=runs))

    def _baselines(self, task: str) -> dict[str, np.ndarray]:
        """Right or wrong of the baselines that have records, (1, items) each."""
        answers = {BASELINE_NAMES[run.kind]: self.correct(run) for run in self.planner.baselines(task)}
        return {name: right[None] for name, right in answers.items() if right is not None}

    def baselines(self) -> Iterator[Row]:
        """The baselines' accuracies."""
        for task in self.plan.tasks:
            for name, right in self._baselines(task).items():
                yield make_row(BASELINES, task, name, None, "accuracy", accuracy(right))


def _all_sizes(logits: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """What all committees of 1, 2, ... of the members have right (see `committees_right`)."""
    members = logits.shape[1]
    return [committees_right(logits, labels, subsets(members, count + 1)) for count in range(members)]


def _common(*sides: Right) -> list[int]:
    """The seeds that all sides have."""
    return sorted(set.intersection(*map(set, sides)))


def _stack(rows: Right, seeds: Sequence[int] | None = None) -> np.ndarray:
    """Rows by seed as (runs, items): all of them, or those of some seeds."""
    return np.stack([rows[seed] for seed in (rows if seeds is None else seeds)])
