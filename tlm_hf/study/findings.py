"""From the records of the study to the rows of its findings; nothing runs or is looked up elsewhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from statistics import median
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from scipy.special import log_softmax, logsumexp

from ..data.overlap_subsets import KINDS
from ..errors import UserError
from ..evaluation.calibration import choose_temperature, expected_calibration_error
from ..evaluation.scoring import unpack_logits
from ..runs.atomic_files import Json
from ..training.finetune import LOGITS_FILE
from .estimates import Answers, Estimate, accuracy, committees_right, difference, mean_difference, slope
from .execute import Record, timed_seconds
from .plan import BASELINES, COMMITTEE, CORPUS_SIZE, GAP, LABELS, OVERLAP, Planner, Point, StudyRun
from .plan_file import ARM_NAMES, BASELINE_NAMES

NOT_WORSE = 0.01  # a committee is not worse when both intervals of its difference from the deep encoder are above -it
SMALLEST = "smallest that is not worse"
Logits = tuple[np.ndarray, np.ndarray]  # logits (items, members, classes) and labels (items,)
Right = dict[int, np.ndarray]  # right or wrong by seed, float (items,) each


@dataclass(frozen=True)
class Row:
    """An estimate, a share of test texts; `timed_as` names its latency row, `seconds` are one core's of training."""

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
    timed_as: str | None = None
    seconds: float | None = None
    calibration: float | None = None


def make_row(finding: str, task: str, model: str, x: Any, measure: str, found: Estimate, **more: Any) -> Row:
    """A row with values rounded to a ten-thousandth of a point: further digits vary with a machine's order of sums."""
    value, low, high = (round(end, 6) for end in (found.value, found.low, found.high))
    t_low, t_high = (None if end is None else round(end, 6) for end in (found.t_low, found.t_high))
    runs = list(found.runs)
    return Row(finding, task, model, x, measure, value, low, high, min(runs), runs, t_low, t_high, **more)


@dataclass(frozen=True)
class Committees:
    """Committees of one kind by size, seconds of one core that training one takes, calibration error of the largest.

    `gains` are their answers less the mean of their members'; `kin` names the committees of encoders trained alike.
    """

    model: str
    timed_as: str | None
    answers: dict[int, Answers]
    seconds: dict[int, float]
    gains: dict[int, Answers] = field(default_factory=dict)
    calibration: dict[int, float] = field(default_factory=dict)
    kin: str = ""


class Findings:
    """The rows of a study, as far as the records in a folder go."""

    def __init__(self, planner: Planner, records: Mapping[str, Record], folder: Path) -> None:
        self.plan, self.planner, self.records, self.folder = planner.plan, planner, records, folder
        self._answers: dict[tuple[str, str], Logits] = {}
        self._labels: dict[tuple[str, str], tuple[str, np.ndarray]] = {}

    def rows(self) -> list[Row]:
        """Rows of all findings, in order."""
        tasks = self.plan.tasks
        points = {task: {(p.finding, p.model, p.x): p for p in self.planner.points(task)} for task in tasks}
        right = {task: {key: self.right(point) for key, point in points[task].items()} for task in tasks}
        rows = [row for task in tasks for row in self.gap(task, right[task])]
        rows += [row for task in tasks for row in self.corpus_size(task, right[task])]
        rows += self.overlap(right)
        rows += [row for task in tasks for row in self.committee(task, points[task])]
        rows += [row for task in tasks for row in self.labels(task, right[task])]
        fits = [(task, name, _stack(found)) for task in tasks for name, found in self._baselines(task).items()]
        rows += [make_row(BASELINES, task, name, None, "accuracy", accuracy(side)) for task, name, side in fits]
        return rows

    def logits(self, runs: Iterable[StudyRun], split: str = "test") -> Logits | None:
        """Logits and labels of the runs that have records; None without any."""
        found = [self._read(run, split) for run in runs if run.name in self.records]
        return (np.stack([logits for logits, _ in found], axis=1), found[0][1]) if found else None

    def splits_read(self, name: str) -> list[str]:
        """The splits of a run whose logits the rows have read so far."""
        return [split for read, split in self._answers if read == name]

    def _read(self, run: StudyRun, split: str) -> Logits:
        name, folder = run.name, self.folder / run.name
        if (name, split) not in self._answers:
            try:
                with np.load(folder / LOGITS_FILE, allow_pickle=False) as stored:
                    logits, labels = unpack_logits(stored[split]), stored[f"{split}_labels"].astype(int)
            except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
                raise UserError(f"The record {folder} is damaged: delete it, and the study makes it again.") from error
            first, expected = self._labels.setdefault((run.settings["task"], split), (name, labels))
            if not np.array_equal(labels, expected):
                raise UserError(f"The runs {first} and {name} have other {split} texts: delete one of their records.")
            self._answers[name, split] = logits, labels
        return self._answers[name, split]

    def right(self, point: Point) -> Right:
        """By seed the share of its fine-tunings that are right; seeds without any are left out."""
        answers = {seed: self.logits(runs) for seed, runs in self.planner.runs(point).items()}
        return {seed: _is_right(found).mean(axis=0) for seed, found in answers.items() if found is not None}

    def _baselines(self, task: str, train_per_label: int | None = None, draws: int | None = None) -> dict[str, Right]:
        found: dict[str, Right] = {}
        for run in self.planner.baselines(task, train_per_label, draws):
            if (logits := self.logits([run])) is not None:
                draw = run.settings["task_options"].get("train_seed", 0)
                found.setdefault(BASELINE_NAMES[run.kind], {})[draw] = _is_right(logits)[0]
        return found

    def gap(self, task: str, right: Mapping[Any, Right]) -> Iterator[Row]:
        """Finding a: both arms, their difference, that without the runs that chose, and that from the baselines."""
        for model in self.plan.gap_models:
            ours, theirs = right[GAP, model, "pretrained"], right[GAP, model, "scratch"]
            if not ours or not theirs:
                continue
            found = {ARM_NAMES["pretrained"]: accuracy(_stack(ours)), ARM_NAMES["scratch"]: accuracy(_stack(theirs))}
            found["gap"] = difference(_stack(ours), _stack(theirs))
            chose = self.plan.rates.seeds
            others = [p for p in ours if p * self.plan.finetuning_seeds >= chose], [s for s in theirs if s >= chose]
            if all(others):
                # Without the runs whose validation accuracy chose the rates: their test accuracy may be flattered.
                found["gap, other seeds"] = difference(_stack(ours, others[0]), _stack(theirs, others[1]))
            for name, other in self._baselines(task).items():
                found[f"difference from {name}"] = difference(_stack(ours), _stack(other))
            for measure, estimate in found.items():
                yield make_row(GAP, task, model, None, measure, estimate)

    def corpus_size(self, task: str, right: Mapping[Any, Right]) -> Iterator[Row]:
        """Finding b: the gap at each size of the corpus, at equal steps and at equal epochs, and its slope."""
        scratch = right[GAP, self.plan.shallow, "scratch"]
        models = dict.fromkeys(model for finding, model, _ in right if finding == CORPUS_SIZE)
        for model in models if scratch else ():
            points = {texts: found for (_, name, texts), found in right.items() if name == model and found}
            # Over the seeds that all sizes have: another seed would count as another size.
            common = _common(*points.values()) if len(points) > 1 else []
            for size, each in points.items() if common else ():
                yield make_row(CORPUS_SIZE, task, model, size, "gap", difference(_stack(each, common), _stack(scratch)))
            if common:
                rise = slope(np.log2(list(points)), [_stack(found, common).right for found in points.values()])
                yield make_row(CORPUS_SIZE, task, model, "slope", "gap per doubling", rise)

    def labels(self, task: str, right: Mapping[Any, Right]) -> Iterator[Row]:
        """Finding e: accuracies, and the gap, by the number of labels of a class; runs of a seed share their texts."""
        name, n, seeds = BASELINE_NAMES["linear"], self.plan.finetuning_seeds, self.plan.labels.seeds
        counts = self.planner.label_counts(task)
        linear = {count: self._baselines(task, few, seeds).get(name, {}) for count, few in counts.items()}
        for (finding, model, count), found in right.items():
            if finding == LABELS and found:
                ours, scratch, other = _stack(found), right[LABELS, "scratch", count], linear[count]
                yield make_row(LABELS, task, model, count, "accuracy", accuracy(ours))
                if model != "scratch" and scratch:
                    paired = self.plan.redraw and found.keys() == scratch.keys()
                    gap = difference(ours, _stack(scratch), paired=paired)
                    yield make_row(LABELS, task, model, count, "gap", gap)
                if other:
                    paired = self.plan.redraw and [n * seed for seed in found] == [*other]
                    gain = difference(ours, _stack(other), paired=paired)
                    yield make_row(LABELS, task, model, count, f"difference from {name}", gain)
        for count, other in linear.items():
            if other:
                yield make_row(LABELS, task, name, count, "accuracy", accuracy(_stack(other)))

    def overlap(self, right: Mapping[str, Mapping[Any, Right]]) -> Iterator[Row]:
        """Finding c: the gap by subset, x being the Jensen-Shannon divergence from the task; high less the others."""
        shallow, measures = self.plan.shallow, overlap_measures(self.planner, self.records)
        pairs: dict[str, list[tuple[Right, Right]]] = {"low": [], "random": []}
        for task in measures:
            scratch = right[task][GAP, shallow, "scratch"]
            of_kind = {kind: right[task][OVERLAP, f"{shallow}, {kind} overlap", kind] for kind in KINDS}
            for kind, found in of_kind.items():
                if scratch and found:
                    x = measures[task][kind]["jensen_shannon_bits"]
                    gap = difference(_stack(found), _stack(scratch))
                    yield make_row(OVERLAP, task, f"{shallow}, {kind} overlap", x, "gap", gap)
            for other, several in pairs.items():
                sides = of_kind["high"], of_kind[other]
                common = _common(*sides)
                if common:
                    several.append(sides)
                    gain = difference(*(_stack(side, common) for side in sides), paired=True)
                    yield make_row(OVERLAP, task, shallow, f"high - {other}", "difference", gain)
        for other, several in pairs.items():
            of_all = 1 < len(several) == len(self.plan.tasks)
            common = _common(*(side for sides in several for side in sides)) if of_all else []
            if common:  # each task has other texts, and so another seed
                answers = [[_stack(side, common, seed) for side in sides] for seed, sides in enumerate(several)]
                gain = mean_difference(answers)
                yield make_row(OVERLAP, "mean of the tasks", shallow, f"high - {other}", "difference", gain)

    def committee(self, task: str, points: Mapping[Any, Point]) -> Iterator[Row]:
        """Finding d: accuracy of committees; differences from members, deep encoder, baselines, plain committees."""
        reference, shallow, groups = self.plan.committee.reference, self.plan.shallow, list(self._committees(points))
        deep = self.right(points[COMMITTEE, reference, "pretrained"])
        baselines = {name: _stack(found) for name, found in self._baselines(task, draws=1).items()}
        others = ({reference: _stack(deep)} if deep else {}) | baselines
        if deep:
            tuned = self.planner.runs(points[COMMITTEE, reference, "pretrained"])
            runs = [run for several in tuned.values() for run in several]
            cost = {"timed_as": reference, "seconds": round(sum(self._cost(runs)))}
            yield make_row(COMMITTEE, task, reference, 1, "accuracy", accuracy(others[reference]), **cost)
        by_name = {group.model: group.answers for group in groups}
        for group in groups:
            plain = groups[0].answers
            better: dict[int, Estimate] = {}
            for count, ours in group.answers.items():
                if group.timed_as is None and count == 1:
                    continue  # these are the reference
                more: Json = {"timed_as": group.timed_as, "seconds": round(group.seconds[count])}
                more["calibration"] = group.calibration.get(count)
                yield make_row(COMMITTEE, task, group.model, count, "accuracy", accuracy(ours), **more)
                sides: dict[str, Answers | None] = {**others}
                if group is not groups[0]:
                    most = max(plain)
                    sides |= {f"as many {shallow}": plain.get(count), f"{most} {shallow}": plain[most]}
                    if group.kin:
                        sides[f"as many {group.kin}"] = by_name[f"committee of {group.kin}"].get(count)
                if count in group.gains:
                    gain = accuracy(group.gains[count])
                    yield make_row(COMMITTEE, task, group.model, count, "difference from its members", gain)
                for name, theirs in sides.items():
                    if theirs is not None:
                        found = difference(ours, theirs)
                        yield make_row(COMMITTEE, task, group.model, count, f"difference from {name}", found)
                        if name == reference:
                            lowest = min(low for low in (found.low, found.t_low) if low is not None)
                            better = {**better, count: found} if lowest > -NOT_WORSE else {}
            if group.timed_as == shallow and better and len(deep) > 1:  # from this size on
                yield make_row(COMMITTEE, task, group.model, min(better), SMALLEST, better[min(better)])
        for name, theirs in baselines.items() if groups else ():
            yield make_row(COMMITTEE, task, name, None, "accuracy", accuracy(theirs))

    def _committees(self, points: Mapping[Any, Point]) -> Iterator[Committees]:
        """Plain ones first; single members of other recipes, mixed, of more steps, from scratch, deep, one encoder."""
        shallow, reference = self.plan.shallow, self.plan.committee.reference
        runs = {key[1:]: self.planner.runs(point) for key, point in points.items() if key[0] == COMMITTEE}
        first = {key: [several[0] for several in by_seed.values()] for key, by_seed in runs.items()}
        others = [recipe for recipe in self.plan.committee.members if recipe not in self.plan.gap_models]
        members = {recipe: first[recipe, "pretrained"] for recipe in (shallow, *others)}
        answers = {recipe: found for recipe, several in members.items() if (found := self.logits(several)) is not None}
        if shallow not in answers:
            return
        for recipe in answers:
            yield self._alike(f"committee of {recipe}" if recipe == shallow else recipe, recipe, members[recipe])
        if len(answers) > 1:
            counts = [logits.shape[1] for logits, _ in answers.values()]
            ends = np.cumsum(counts)  # members are numbered through the recipes
            one_each = list(product(*(range(end - count, end) for end, count in zip(ends, counts, strict=True))))
            together = np.concatenate([logits for logits, _ in answers.values()], axis=1)
            right = Answers(committees_right(together, answers[shallow][1], one_each), sum(counts))
            cost = sum(sum(self._cost(members[recipe])) for recipe in answers)
            name, kinds = f"mixed: one each of {', '.join(answers)}", len(answers)
            yield Committees(name, "mixed", {kinds: right}, {kinds: cost})
        for variant in self.plan.committee.variants:
            yield self._alike(f"committee of {variant}", shallow, first[variant, "pretrained"])
        for model in (shallow, *self.plan.committee.variants):
            own = first.get((f"{model}, own texts", "pretrained"), [])
            yield self._alike(f"committee of {model}, each of its own texts", shallow, own, kin=model)
        yield self._alike(f"committee of {shallow} from scratch", shallow, first[shallow, "scratch"])
        if reference != shallow:
            yield self._alike(f"committee of {reference}", None, first[reference, "pretrained"])
        for model in (shallow, *self.plan.committee.variants):
            of_one = [several for several in runs[model, "pretrained"].values() if len(several) > 1]
            name = f"committee of one {model}, fine-tuned several times"
            yield self._alike(name, shallow, *of_one, shared=True, kin=model)

    def _alike(
        self, model: str, timed_as: str | None, *groups: Sequence[StudyRun], shared: bool = False, kin: str = ""
    ) -> Committees:
        """All committees of each of the plan's sizes within each group; with `shared` a group has one encoder."""
        found = [logits for logits in map(self.logits, groups) if logits is not None]
        answers, seconds, gains = {}, {}, {}
        encoder, tuning = self._cost([run for several in groups for run in several])
        for count in sorted({*self.plan.committee.counts, len(self.plan.committee.members)}):
            large = [(logits, labels) for logits, labels in found if logits.shape[1] >= count]
            if large:
                right, alone = [], []
                for logits, labels in large:
                    several = [*combinations(range(logits.shape[1]), count)]
                    right.append(committees_right(logits, labels, several))
                    alone.append(_is_right((logits, labels))[several].mean(axis=1))
                most = len(large) if shared else None if count == 1 else large[0][0].shape[1]  # single ones are runs
                answers[count] = Answers(np.concatenate(right), most)
                if count > 1:
                    gains[count] = Answers(np.concatenate(right) - np.concatenate(alone), most)
                seconds[count] = count * tuning + encoder * (1 if shared else count)
        calibration = {max(answers): self._calibration(groups, max(answers))} if answers else {}
        return Committees(model, timed_as, answers, seconds, gains, calibration, kin)

    def _calibration(self, groups: Sequence[Sequence[StudyRun]], count: int) -> float:
        """Calibration error on test texts of the committee of the first members of the first group that has so many."""
        logs, labels = {}, {}
        for split in ("validation", "test"):
            found = [logits for logits in (self.logits(group, split) for group in groups) if logits is not None]
            logits, labels[split] = next(each for each in found if each[0].shape[1] >= count)
            logs[split] = logsumexp(log_softmax(logits[:, :count], axis=-1), axis=1)
        temperature = choose_temperature(logs["validation"], labels["validation"]).value
        return round(expected_calibration_error(logs["test"] / temperature, labels["test"]), 6)

    def _cost(self, runs: Sequence[StudyRun]) -> tuple[float, float]:
        """Median seconds of one core of the encoders' pre-training and of the fine-tunings; 0 where none was timed."""
        encoders = [need for run in runs for need in run.needs if need.kind == "pretrain"]
        costs = []
        for some in (encoders, runs):
            found = timed_seconds(self.records[run.name] for run in some if run.name in self.records)
            costs.append(median(found or [0.0]))
        return costs[0], costs[1]


def overlap_measures(planner: Planner, records: Mapping[str, Record]) -> dict[str, dict[str, dict[str, float]]]:
    """By task and kind of subset the overlap with the training texts; with several choices of subsets the mean."""
    names = dict.fromkeys(planner.subsets(seed).name for seed in range(planner.plan.pretraining_seeds))
    found = [records[name].results["measures"] for name in names if name in records]
    return {
        task: {kind: pd.DataFrame([each[task][kind]["train"] for each in found]).mean().to_dict() for kind in KINDS}
        for task in (planner.plan.tasks if found else ())
    }


def _is_right(found: Logits) -> np.ndarray:
    logits, labels = found
    return np.asarray(labels == logits.argmax(axis=-1).T)


def _common(*sides: Right) -> list[int]:
    return sorted(set.intersection(*map(set, sides)))


def _stack(rows: Right, seeds: Sequence[int] | None = None, place: int = 0) -> Answers:
    """Rows by seed, all of them or those of some seeds; `place` is the seed of the items."""
    return Answers(np.stack([rows[seed] for seed in (rows if seeds is None else seeds)]), seed=place)
