"""From the records of the study to the rows of its four findings; nothing runs here and nothing is looked up elsewhere.

A row is `finding`, `task`, `model`, `x`, `measure`, `estimate`, `low`, `high`, `seeds`, `t_low`, `t_high` (see
`estimates`). Accuracies are shares of the test texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.packed_logits import unpack_logits
from ..training.finetune import LOGITS_FILE
from .estimates import (
    Estimate,
    accuracy,
    committee_correct,
    committee_curve,
    committees_of,
    difference,
    first_not_worse,
    slope,
)
from .plan import ARMS, BASELINES, COMMITTEE, CORPUS_SIZE, GAP, KINDS, OVERLAP, Planner, SizePlan, validation_accuracies

Row = dict[str, Any]
NOT_WORSE = 0.01
"""A committee counts as not worse than the deep encoder when the interval of the difference lies above minus this."""
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

    def test(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Test logits (items, classes) and labels (items,) of a run; None where it is not there."""
        if name not in self.found:
            return None
        if name not in self._cache:
            with np.load(self.folder / name / LOGITS_FILE, allow_pickle=False) as stored:
                self._cache[name] = unpack_logits(stored["test"]), stored["test_labels"].astype(int)
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

    def _seeds(
        self, recipe: str, task: str, arm: str, runs: Sequence[tuple[str | None, list[int]]]
    ) -> dict[int, np.ndarray]:
        """By place in `runs` the share of its fine-tunings that are right, (items,); places without any left out."""
        candidate = self.planner.chosen(recipe, task, arm)
        if candidate is None:
            return {}
        rows: dict[int, np.ndarray] = {}
        for place, (encoder, tuned) in enumerate(runs):
            names = [self.planner.finetuning(recipe, task, encoder, seed, [], 0, candidate) for seed in tuned]
            there = [found for name in names if (found := self.records.correct(name)) is not None]
            if there:
                rows[place] = np.mean(there, axis=0)
        return rows

    def arms(self, recipe: str, task: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Pre-trained and scratch of the gap over the seeds that both have, float (seeds, items) each."""
        seeds = list(self.planner.gap_seeds())
        encoders = [(self.planner.pretraining(recipe, seed, [], 0), tuned) for seed, tuned in seeds]
        return _paired(
            self._seeds(recipe, task, "pretrained", encoders),
            self._seeds(recipe, task, "scratch", [(None, tuned) for _, tuned in seeds]),
        )

    def gap(self) -> Iterator[Row]:
        """Finding a."""
        for recipe in self.plan.gap["recipes"]:
            for task in self.plan.tasks:
                arms = self.arms(recipe, task)
                if arms is not None:
                    for arm, correct in zip(ARMS, arms, strict=True):
                        yield _row(GAP, task, recipe, arm, "accuracy", accuracy(correct))
                    yield _row(GAP, task, recipe, "gap", "gap", difference(*arms))

    def _arms_of(self, recipe: str, task: str, encoders: list[str]) -> tuple[dict[int, Any], dict[int, Any]]:
        """Both arms of encoders of other corpora by pre-training seed, one fine-tuning seed each."""
        tuned = [[seed * self.plan.gap["finetuning_seeds"]] for seed in range(len(encoders))]
        ours = self._seeds(recipe, task, "pretrained", list(zip(encoders, tuned, strict=True)))
        return ours, self._seeds(recipe, task, "scratch", [(None, seeds) for seeds in tuned])

    def _gap_of(self, recipe: str, task: str, encoders: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """The same, over the seeds that both have."""
        return _paired(*self._arms_of(recipe, task, encoders))

    def corpus_size(self) -> Iterator[Row]:
        """Finding b: the gap at each size of the corpus, at equal steps and at equal epochs, and its slope."""
        recipe, seeds = self.plan.corpus_size["recipe"], range(self.plan.corpus_size["pretraining_seeds"])
        for task in self.plan.tasks:
            for equal in ("steps", "epochs"):
                points = []
                for texts, kind, steps in self.planner.corpus_steps():
                    if kind != equal:
                        continue
                    changes: dict[str, Any] = {"num_texts": texts, "max_steps": steps}
                    encoders = [self.planner.pretraining(recipe, seed, [], 0, **changes) for seed in seeds]
                    arms = self._arms_of(recipe, task, encoders)
                    found = _paired(*arms)
                    if found is None:
                        continue
                    points.append((np.log2(texts), arms))
                    yield _row(CORPUS_SIZE, task, f"{recipe}, equal {equal}", texts, "gap", difference(*found))
                    yield _row(CORPUS_SIZE, task, f"{recipe}, equal {equal}", texts, "accuracy", accuracy(found[0]))
                # Over the seeds that all sizes have, or a seed would count as a size.
                common = set.intersection(*({*arm} for _, arms in points for arm in arms)) if points else set()
                if len(points) > 1 and common:
                    pairs = [
                        tuple(np.stack([arm[seed] for seed in sorted(common)]) for arm in arms) for _, arms in points
                    ]
                    found_slope = slope([size for size, _ in points], pairs)  # type: ignore[arg-type]
                    yield _row(CORPUS_SIZE, task, f"{recipe}, equal {equal}", "slope", "gap per doubling", found_slope)

    def overlap(self) -> Iterator[Row]:
        """Finding c: the gap by subset, x being the Jensen-Shannon divergence from the task; high less low."""
        recipe, options = self.plan.overlap["recipe"], self.plan.overlap
        record = self.records.found.get(self.planner.subsets())
        if record is None:
            return
        for task in self.plan.tasks:
            gaps = {}
            for kind in KINDS:
                encoders = [
                    self.planner.overlap_encoder(task, kind, seed) for seed in range(options["pretraining_seeds"])
                ]
                found = self._gap_of(recipe, task, encoders)
                if found is None:
                    continue
                gaps[kind] = found
                divergence = record["measures"][task][kind]["train"]["jensen_shannon_bits"]
                row = _row(OVERLAP, task, f"{recipe}, {kind} overlap", divergence, "gap", difference(*found))
                yield row | {"measures": record["measures"][task][kind]["train"]}
            if "high" in gaps and "low" in gaps and len(gaps["high"][0]) == len(gaps["low"][0]):
                found_difference = difference(gaps["high"][0], gaps["low"][0])
                yield _row(OVERLAP, task, recipe, "high - low", "difference", found_difference)

    def members(self, task: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By recipe the members' test logits (items, members, classes) and the labels (items,)."""
        found = {}
        for recipe in self.plan.committee["members"]:
            candidate = self.planner.chosen(recipe, task, "pretrained")
            if candidate is None:
                continue
            there = []
            for seed, tuned in self.planner.member_seeds(recipe):
                encoder = self.planner.pretraining(recipe, seed, [], 0)
                name = self.planner.finetuning(recipe, task, encoder, tuned, [], 0, candidate)
                answers = self.records.test(name)
                if answers is not None:
                    there.append(answers)
            if there:
                found[recipe] = np.stack([logits for logits, _ in there], axis=1), there[0][1]
        return found

    def committee(self) -> Iterator[Row]:
        """Finding d: accuracy against the number of members, against the deep encoder and the baselines."""
        first = self.plan.first_member
        reference = self.plan.committee["reference"]
        for task in self.plan.tasks:
            members = self.members(task)
            seeds = [
                (self.planner.pretraining(reference, seed, [], 0), runs) for seed, runs in self.planner.gap_seeds()
            ]
            rows = self._seeds(reference, task, "pretrained", seeds)
            deep = np.stack(list(rows.values())) if rows else None
            if deep is not None:
                yield _row(COMMITTEE, task, reference, 1, "accuracy", accuracy(deep))
            if first not in members:
                continue
            logits, labels = members[first]
            name = f"committee of {first}"
            for place, found in enumerate(committee_curve(logits, labels)):
                yield _row(COMMITTEE, task, name, place + 1, "accuracy", found)
            if deep is not None:
                curve = committee_curve(logits, labels, deep)
                for place, found in enumerate(curve):
                    yield _row(COMMITTEE, task, name, place + 1, f"difference from {reference}", found)
                smallest = {"not worse": first_not_worse(curve, NOT_WORSE), "better": first_not_worse(curve, 0.0)}
                for words, count in smallest.items():
                    if count is not None:
                        yield _row(COMMITTEE, task, name, count, f"smallest that is {words}", curve[count - 1])
            joined = {name: [logits]}
            if len(members) > 1:
                joined["all members"] = [found for found, _ in members.values()]
                others = [recipe for recipe in members if recipe != first]
                singles = [logits[:, :1], *(members[recipe][0][:, :1] for recipe in others)]
                joined[f"mixed: one each of {', '.join(members)}"] = singles
                for recipe in others:
                    alone = (members[recipe][0].argmax(axis=-1) == labels[:, None]).T.astype(float)
                    yield _row(COMMITTEE, task, recipe, 1, "accuracy", accuracy(alone))
            for words, parts in joined.items():
                together = np.concatenate(parts, axis=1)
                count = together.shape[1]
                right = committee_correct(together, labels, range(count))[-1:].astype(float)
                if words != name:
                    yield _row(COMMITTEE, task, words, count, "accuracy", accuracy(right))
                    if count <= logits.shape[1]:  # what the variety of recipes is worth: as many of the first instead
                        alike = committees_of(logits, labels, count)
                        found = difference(right, alike, paired_seeds=False)
                        yield _row(COMMITTEE, task, words, count, f"difference from as many {first}", found)
                for kind, other in self._baselines(task).items():
                    yield _row(
                        COMMITTEE,
                        task,
                        words,
                        count,
                        f"difference from {BASELINE_NAMES[kind]}",
                        difference(right, other),
                    )
                if deep is not None and words != name:
                    yield _row(
                        COMMITTEE, task, words, count, f"difference from {reference}",
                        difference(right, deep, paired_seeds=False),
                    )  # fmt: skip

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


def _paired(ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Both sides at the places that both have, (seeds, items) each; None where there is none."""
    common = sorted(set(ours) & set(theirs))
    return (
        (np.stack([ours[place] for place in common]), np.stack([theirs[place] for place in common])) if common else None
    )


def _row(finding: str, task: str, model: str, x: Any, measure: str, found: Estimate) -> Row:
    return {
        "finding": finding,
        "task": task,
        "model": model,
        "x": x,
        "measure": measure,
        "estimate": found.value,
        "low": found.low,
        "high": found.high,
        "seeds": found.seeds,
        "t_low": found.t_low,
        "t_high": found.t_high,
    }
