"""From the records of the study to the rows of its four findings; nothing runs here and nothing is looked up elsewhere.

A row is `finding`, `task`, `model`, `x`, `measure`, `estimate`, `low`, `high`, `seeds` (runs of the side that has
fewer), `runs` (of each side), `t_low`, `t_high` (see `estimates`). Accuracies are shares of the test texts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..evaluation.scoring import unpack_logits
from ..training.finetune import LOGITS_FILE
from .estimates import (
    Estimate,
    accuracy,
    committee_curve,
    committees_right,
    difference,
    first_not_worse,
    mean_difference,
    one_of_each,
    slope,
    subsets,
)
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, KINDS, OVERLAP, Planner, validation_accuracies
from .plan_checks import ARMS
from .plan_file import SizePlan

Row = dict[str, Any]
NOT_WORSE = 0.01
"""A committee counts as not worse than the deep encoder when the interval of the difference lies above minus this."""
ALL_TASKS = "mean of the tasks"
HIGH_LOW, HIGH_RANDOM = "high - low", "high - random"
OTHER_SEEDS = "gap, other seeds"
"""The gap without the runs whose validation accuracy chose the rates: their test accuracy may be flattered."""
COLLAPSED = 0.2
"""A run whose validation accuracy lies this far below that of the one that chose its rate did not learn."""
WITHOUT_COLLAPSED = "gap, without collapsed runs"
BASELINE_NAMES = {"tfidf": "TF-IDF + logistic regression", "sentence": "frozen MiniLM-L6 + logistic regression"}


@dataclass
class Records:
    """Reads test answers of finished runs.

    Args:
        folder: of the records.
        found: `results.json` of each by name.
    """

    folder: Path
    found: dict[str, dict[str, Any]]

    def __post_init__(self) -> None:
        self._cache: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._labels: dict[str, tuple[str, np.ndarray]] = {}

    def test(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Test logits (items, classes) and labels (items,) of a run; None where it is not there."""
        if name not in self.found:
            return None
        if name not in self._cache:
            with np.load(self.folder / name / LOGITS_FILE, allow_pickle=False) as stored:
                logits, labels = unpack_logits(stored["test"]), stored["test_labels"].astype(int)
            task = self.found[name]["settings"]["task"]
            first, expected = self._labels.setdefault(task, (name, labels))
            if not np.array_equal(labels, expected):
                raise UserError(
                    f"The runs {first} and {name} have other test texts, so that they cannot be compared: delete the "
                    "records made with other data, and the study makes them anew."
                )
            self._cache[name] = logits, labels
        return self._cache[name]

    def correct(self, name: str) -> np.ndarray | None:
        """Which test items a run has right, float (items,)."""
        found = self.test(name)
        return None if found is None else (found[0].argmax(axis=-1) == found[1]).astype(float)


class Findings:
    """The rows of a study, as far as its records go.

    Args:
        plan: of one size.
        records: the records.
        folder: where they lie.
    """

    def __init__(self, plan: SizePlan, records: dict[str, dict[str, Any]], folder: Path) -> None:
        self.plan = plan
        self.records = Records(folder, records)
        self.planner = Planner(plan, validation_accuracies(records))

    def rows(self) -> list[Row]:
        """Rows of all findings, in order."""
        return [
            row for part in (self.gap, self.corpus_size, self.overlap, self.committee, self.baselines) for row in part()
        ]

    def _names(
        self, recipe: str, task: str, arm: str, runs: Sequence[tuple[str | None, list[int]]]
    ) -> list[list[str]]:  # fmt: skip
        """By encoder the names of its fine-tunings with the chosen rate; none as long as it is not chosen."""
        candidate = self.planner.chosen(recipe, task, arm)
        if candidate is None:
            return []
        return [
            [self.planner.finetuning(recipe, task, encoder, seed, [], 0, candidate) for seed in tuned]
            for encoder, tuned in runs
        ]

    def _right(self, runs: Mapping[int, list[str]], without: Sequence[str] = ()) -> dict[int, np.ndarray]:
        """By seed the share of its fine-tunings that are right, (items,); seeds without any left out."""
        rows: dict[int, np.ndarray] = {}
        for seed, names in runs.items():
            answers = [self.records.correct(name) for name in names if name not in without]
            there = [right for right in answers if right is not None]
            if there:
                rows[seed] = np.mean(there, axis=0)
        return rows

    def arms(self, model: str, task: str) -> dict[str, dict[int, list[str]]]:
        """By arm and seed the names of the runs of finding a, of a recipe or of the first one with more steps.

        Pre-trained is every encoder on the whole corpus, those that are only members of committees too, by
        pre-training seed. From scratch is every run by its own seed: no corpus is behind it, so that it stands against
        all of them.
        """
        if model == self.plan.longer_name:
            recipe, tuned = self.plan.first_member, {seed: [one] for seed, one in self.planner.longer_seeds()}
            encoders = [(self.planner.longer_encoder(seed), seeds) for seed, seeds in tuned.items()]
        else:
            recipe, tuned = model, self.planner.encoder_seeds(model)
            encoders = [(self.planner.pretraining(recipe, seed, [], 0), seeds) for seed, seeds in tuned.items()]
        seeds = [seed for _, several in self.planner.gap_seeds() for seed in several]
        scratch = [(None, [seed]) for seed in seeds]
        return {
            "pretrained": dict(zip(tuned, self._names(recipe, task, "pretrained", encoders), strict=False)),
            "scratch": dict(zip(seeds, self._names(recipe, task, "scratch", scratch), strict=False)),
        }

    def pretrained(self, recipe: str, task: str) -> dict[int, np.ndarray]:
        """What the pre-trained encoders have right, (items,) each."""
        return self._right(self.arms(recipe, task)["pretrained"])

    def scratch(self, recipe: str, task: str) -> dict[int, np.ndarray]:
        """What the encoders from scratch have right, (items,) each."""
        return self._right(self.arms(recipe, task)["scratch"])

    def collapsed(self, recipe: str, task: str, arms: Mapping[str, dict[int, list[str]]]) -> dict[str, list[str]]:
        """By arm the runs of finding a that did not learn (see `COLLAPSED`): by validation, not by what is reported."""
        found = {}
        validation = self.planner.validation
        for arm, runs in arms.items():
            best = max((validation.get(name, 0.0) for name in self.planner.candidates(recipe, task, arm)), default=0.0)
            names = [name for several in runs.values() for name in several if name in validation]
            found[arm] = [name for name in names if validation[name] < best - COLLAPSED]
        return found

    def gap(self) -> Iterator[Row]:
        """Finding a: both arms, their difference, that without the seed that chose, and that from the baselines."""
        for model, recipe in self.plan.gap_models().items():
            for task in self.plan.tasks:
                runs = self.arms(model, task)
                ours, theirs = (self._right(runs[arm]) for arm in ARMS)
                if not ours or not theirs:
                    continue
                for arm, found in zip(ARMS, (ours, theirs), strict=True):
                    yield _row(GAP, task, model, arm, "accuracy", accuracy(_stack(found)))
                yield _row(GAP, task, model, "gap", "gap", difference(_stack(ours), _stack(theirs)))
                rest = [[seed for seed in found if seed > 0] for found in (ours, theirs)]
                if all(rest):
                    left = difference(_stack(ours, rest[0]), _stack(theirs, rest[1]))
                    yield _row(GAP, task, model, OTHER_SEEDS, "gap", left)
                collapsed = self.collapsed(recipe, task, runs)
                kept = [self._right(runs[arm], collapsed[arm]) for arm in ARMS]
                if any(collapsed.values()) and all(kept):  # none may have learnt of those that chose no rate
                    learnt, others = map(_stack, kept)
                    yield _row(GAP, task, model, WITHOUT_COLLAPSED, "gap", difference(learnt, others)) | {
                        "collapsed": collapsed
                    }
                for kind, other in self._baselines(task).items():
                    measure = f"difference from {BASELINE_NAMES[kind]}"
                    yield _row(GAP, task, model, ARMS[0], measure, difference(_stack(ours), other))

    def _of_encoders(self, recipe: str, task: str, encoders: list[str]) -> dict[int, np.ndarray]:
        """Encoders of other corpora by pre-training seed, one fine-tuning seed each."""
        tuned = [[seed * self.plan.gap["finetuning_seeds"]] for seed in range(len(encoders))]
        names = self._names(recipe, task, "pretrained", list(zip(encoders, tuned, strict=True)))
        return self._right(dict(enumerate(names)))

    def corpus_size(self) -> Iterator[Row]:
        """Finding b: the gap at each size of the corpus, at equal steps and at equal epochs, and its slope."""
        recipe, seeds = self.plan.corpus_size["recipe"], range(self.plan.corpus_size["pretraining_seeds"])
        for task in self.plan.tasks:
            scratch = self.scratch(recipe, task)
            for equal in ("steps", "epochs") if scratch else ():
                points = []
                for texts, kind, steps in self.planner.corpus_steps():
                    if kind != equal:
                        continue
                    changes: dict[str, Any] = {"num_texts": texts, "max_steps": steps}
                    encoders = [self.planner.pretraining(recipe, seed, [], 0, **changes) for seed in seeds]
                    found = self._of_encoders(recipe, task, encoders)
                    if not found:
                        continue
                    points.append((np.log2(texts), found))
                    gap = difference(_stack(found), _stack(scratch))
                    yield _row(CORPUS_SIZE, task, f"{recipe}, equal {equal}", texts, "gap", gap)
                    yield _row(
                        CORPUS_SIZE, task, f"{recipe}, equal {equal}", texts, "accuracy", accuracy(_stack(found))
                    )
                # Over the seeds that all sizes have, or a seed would count as a size.
                common = _common(*(found for _, found in points)) if len(points) > 1 else []
                if common:
                    rows = [_stack(found, common) for _, found in points]
                    found_slope = slope([size for size, _ in points], rows)
                    yield _row(CORPUS_SIZE, task, f"{recipe}, equal {equal}", "slope", "gap per doubling", found_slope)

    def overlap(self) -> Iterator[Row]:
        """Finding c: the gap by subset, x being the Jensen-Shannon divergence from the task; high less the others."""
        recipe, options = self.plan.overlap["recipe"], self.plan.overlap
        record = self.records.found.get(self.planner.subsets())
        if record is None:
            return
        pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {HIGH_LOW: [], HIGH_RANDOM: []}
        for task in self.plan.tasks:
            scratch, there = self.scratch(recipe, task), {}
            for kind in KINDS if scratch else ():
                encoders = [
                    self.planner.overlap_encoder(task, kind, seed) for seed in range(options["pretraining_seeds"])
                ]
                found = self._of_encoders(recipe, task, encoders)
                if not found:
                    continue
                there[kind] = found
                divergence = record["measures"][task][kind]["train"]["jensen_shannon_bits"]
                gap = difference(_stack(found), _stack(scratch))
                row = _row(OVERLAP, task, f"{recipe}, {kind} overlap", divergence, "gap", gap)
                yield row | {"measures": record["measures"][task][kind]["train"]}
            for name, other in ((HIGH_LOW, "low"), (HIGH_RANDOM, "random")):
                common = _common(there["high"], there[other]) if {"high", other} <= set(there) else []
                if common:
                    pair = _stack(there["high"], common), _stack(there[other], common)
                    pairs[name].append(pair)
                    yield _row(OVERLAP, task, recipe, name, "difference", difference(*pair, paired=True))
        for name, found_pairs in pairs.items():
            if len(found_pairs) > 1:
                yield _row(OVERLAP, ALL_TASKS, recipe, name, "difference", mean_difference(found_pairs))

    def members(self, task: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By recipe the members' test logits (items, members, classes) and the labels (items,)."""
        found = {}
        for recipe in self.plan.committee["members"]:
            seeds = self.planner.member_seeds(recipe)
            encoders = [(self.planner.pretraining(recipe, seed, [], 0), [tuned]) for seed, tuned in seeds]
            found[recipe] = self._answers(self._names(recipe, task, "pretrained", encoders))
        return {recipe: answers for recipe, answers in found.items() if answers is not None}

    def _answers(self, members: Iterable[list[str]]) -> tuple[np.ndarray, np.ndarray] | None:
        """Test logits (items, members, classes) and labels (items,) of members of one run each; None without any."""
        there = [answers for (name,) in members if (answers := self.records.test(name)) is not None]
        return (np.stack([logits for logits, _ in there], axis=1), there[0][1]) if there else None

    def committee(self) -> Iterator[Row]:
        """Finding d: accuracy against the number of members, against the deep encoder and the baselines."""
        first, reference = self.plan.first_member, self.plan.committee["reference"]
        for task in self.plan.tasks:
            members = self.members(task)
            there = self.pretrained(reference, task)
            deep = _stack(there) if there else None
            if deep is not None:
                yield _row(COMMITTEE, task, reference, 1, "accuracy", accuracy(deep))
            if first not in members:
                continue
            logits, labels = members[first]
            alike = _of_all_sizes(logits, labels)
            name = f"committee of {first}"
            for place, found in enumerate(committee_curve(alike)):
                yield _row(COMMITTEE, task, name, place + 1, "accuracy", found)
            if deep is not None:
                curve = committee_curve(alike, deep)
                for place, found in enumerate(curve):
                    yield _row(COMMITTEE, task, name, place + 1, f"difference from {reference}", found)
                smallest = {"not worse": first_not_worse(curve, NOT_WORSE), "better": first_not_worse(curve, 0.0)}
                for words, count in smallest.items():
                    if count is not None:
                        yield _row(COMMITTEE, task, name, count, f"smallest that is {words}", curve[count - 1])
            for kind, other in self._baselines(task).items():
                measure = f"difference from {BASELINE_NAMES[kind]}"
                found = replace(difference(alike[-1], other), runs=(len(alike), 1))
                yield _row(COMMITTEE, task, name, len(alike), measure, found)
            for recipe in members if len(members) > 1 else ():
                if recipe != first:
                    alone = committees_right(*members[recipe], subsets(members[recipe][0].shape[1], 1))
                    yield _row(COMMITTEE, task, recipe, 1, "accuracy", accuracy(alone))
            if len(members) > 1:
                yield from self._mixed(task, members, alike, deep)
            yield from self._longer(task, alike, deep)

    def _mixed(
        self, task: str, members: dict[str, tuple[np.ndarray, np.ndarray]], alike: list[np.ndarray],
        deep: np.ndarray | None,
    ) -> Iterator[Row]:  # fmt: skip
        """Committees of several recipes: all members there are, and one of each recipe, whichever of its members."""
        counts = [logits.shape[1] for logits, _ in members.values()]
        together = np.concatenate([logits for logits, _ in members.values()], axis=1)
        labels = members[self.plan.first_member][1]
        for words, committees in (
            ("all members", [tuple(range(sum(counts)))]),
            (f"mixed: one each of {', '.join(members)}", one_of_each(counts)),
        ):
            right, count = committees_right(together, labels, committees), len(committees[0])
            runs = tuple(counts) if words != "all members" else (sum(counts),)
            yield from self._compared(task, words, count, right, runs, alike, deep)

    def _longer(self, task: str, alike: list[np.ndarray], deep: np.ndarray | None) -> Iterator[Row]:
        """Committees of the first recipe with more pre-training, also against all of its plain members together."""
        first, name = self.plan.first_member, f"committee of {self.plan.longer_name}"
        found = self._answers(self.arms(self.plan.longer_name, task)["pretrained"].values() if self.plan.longer else [])
        sizes = [] if found is None else _of_all_sizes(*found)
        for place, right in enumerate(sizes):
            runs = (len(sizes),)
            yield from self._compared(task, name, place + 1, right, runs, alike, deep)
            whole = replace(difference(right, alike[-1], single=True), runs=runs)
            yield _row(COMMITTEE, task, name, place + 1, f"difference from {len(alike)} {first}", whole)

    def _compared(
        self, task: str, model: str, count: int, right: np.ndarray, runs: tuple[int, ...], alike: list[np.ndarray],
        deep: np.ndarray | None,
    ) -> Iterator[Row]:  # fmt: skip
        """Accuracy of committees of `count` members, and its differences from what a committee is held against."""
        first, reference = self.plan.first_member, self.plan.committee["reference"]
        sides: dict[str, Estimate] = {}
        if count <= len(alike):  # what another make of members is worth: as many of the first instead
            sides[f"as many {first}"] = difference(right, alike[count - 1], single=True, single_theirs=True)
        for kind, other in self._baselines(task).items():
            sides[BASELINE_NAMES[kind]] = difference(right, other, single=True)
        if deep is not None:
            sides[reference] = difference(right, deep, single=True)
        yield _row(COMMITTEE, task, model, count, "accuracy", replace(accuracy(right, single=True), runs=runs))
        for side, found in sides.items():
            yield _row(COMMITTEE, task, model, count, f"difference from {side}", replace(found, runs=runs))

    def _baselines(self, task: str) -> dict[str, np.ndarray]:
        """Right or wrong of the baselines that are there, (1, items) each."""
        found = {}
        for run in self.planner.baselines(task):
            correct = self.records.correct(run.name)
            if correct is not None:
                found[run.kind] = correct[None]
        return found

    def baselines(self) -> Iterator[Row]:
        """The rows that stand in every table."""
        for task in self.plan.tasks:
            for kind, correct in self._baselines(task).items():
                yield _row(BASELINES, task, BASELINE_NAMES[kind], None, "accuracy", accuracy(correct))

    def latency(self) -> list[Row]:
        """`model`, `members`, `batch_size`, `milliseconds` of each; empty before the latency was measured."""
        record = next((found for found in self.records.found.values() if found["kind"] == "latency"), None)
        return [] if record is None else record["rows"]


def _of_all_sizes(logits: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """What all committees of 1, 2, ... of the members have right (see `committees_right`)."""
    members = logits.shape[1]
    return [committees_right(logits, labels, subsets(members, count + 1)) for count in range(members)]


def _common(*sides: dict[int, np.ndarray]) -> list[int]:
    """The seeds that all sides have."""
    return sorted(set.intersection(*map(set, sides)))


def _stack(rows: dict[int, np.ndarray], seeds: Sequence[int] | None = None) -> np.ndarray:
    """Rows by seed as (runs, items): all of them, or those of some seeds."""
    return np.stack([rows[seed] for seed in (rows if seeds is None else seeds)])


def _row(finding: str, task: str, model: str, x: Any, measure: str, found: Estimate) -> Row:
    values = {"estimate": found.value, "low": found.low, "high": found.high}
    bounds = {"t_low": found.t_low, "t_high": found.t_high}
    return {
        "finding": finding,
        "task": task,
        "model": model,
        "x": x,
        "measure": measure,
        # To a ten-thousandth of a point: further digits hang on the order in which a machine adds.
        **{name: round(value, 6) for name, value in values.items()},
        "seeds": found.seeds,
        "runs": list(found.runs),
        **{name: None if value is None else round(value, 6) for name, value in bounds.items()},
    }
