"""The study's runs: what all findings of a plan (`plan_file`) need; findings that need the same encoder share it."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from operator import itemgetter
from statistics import mean
from typing import Any

from ..data.overlap_subsets import KINDS
from ..recipes import find_size
from ..runs.atomic_files import Json
from .plan_file import Candidate, SizePlan

GAP, CORPUS_SIZE, OVERLAP, COMMITTEE, LABELS = FINDINGS = "gap", "corpus_size", "overlap", "committee", "labels"
BASELINES = "baselines"
EDGE_FACTOR = 3.0  # ratio of a rate beyond the edge of the grid to the rate at the edge


@dataclass(frozen=True, eq=False)
class StudyRun:
    """One piece of work and the runs that must be done before it."""

    kind: str
    label: str
    settings: Json
    needs: tuple["StudyRun", ...] = ()

    @cached_property
    def name(self) -> str:
        """Content address: the label and 10 digits of the SHA-256 of kind and settings, which name the needed runs."""
        text = json.dumps({"kind": self.kind, **self.settings}, sort_keys=True)
        return f"{self.label}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Point:
    """One value of a finding: by seed an encoder (None: new weights) of a model, and its fine-tuning seeds."""

    finding: str
    task: str
    model: str
    x: Any
    rates: str  # the recipe or variant whose candidates are tried
    encoders: Mapping[int, tuple[StudyRun | None, list[int]]]
    train_per_label: int | None = None  # in place of the task's
    draw: int | None = None  # of training texts, where `redraw` would give each seed its own

    @property
    def arm(self) -> str:
        """`pretrained` or `scratch`."""
        return "scratch" if any(encoder is None for encoder, _ in self.encoders.values()) else "pretrained"


class Planner:
    """Names the runs of a plan; `validation` is the accuracy of finished fine-tunings by name, which chooses rates."""

    def __init__(self, plan: SizePlan, validation: Mapping[str, float]) -> None:
        self.plan = plan
        self.validation = validation
        size = find_size(plan.recipe_size)
        settings: Json = {"corpus": plan.corpus, "max_length": size.max_length}
        settings |= {"num_texts": plan.tokenizer_texts, "vocab_size": size.vocab_size}
        self.tokenizer = StudyRun("tokenizer", "tokenizer", settings)
        options = plan.committee.model_dump(include={"members", "reference", "counts", "batch_size"})
        self.latency = StudyRun("latency", "latency", {"size": plan.recipe_size, **options})

    def subsets(self, seed: int) -> StudyRun:
        """The run that chooses the overlap subsets; with `redraw` each seed has others."""
        overlap, size = self.plan.overlap, find_size(self.plan.recipe_size)
        settings: Json = {"corpus": self.plan.corpus, "max_length": size.max_length, "tokenizer": self.tokenizer.name}
        settings |= {"corpus_texts": overlap.corpus_texts, "num_texts": overlap.num_texts}
        settings |= {"seed": seed} if self.plan.redraw else {}
        first = seed * self.plan.finetuning_seeds  # fine-tuned with it
        tasks = {task: self.task_options(task, first) for task in self.plan.tasks}
        for options in tasks.values():  # no corpus has such marks: low overlap would mean no brackets
            options.pop("entity_markers", None)
        settings |= {"tasks": tasks}
        return StudyRun("subsets", f"subsets-{seed}" if self.plan.redraw else "subsets", settings, (self.tokenizer,))

    def recipe(self, model: str) -> str:
        """The recipe of a model: variants are of the shallow one."""
        return self.plan.shallow if model in self.plan.committee.variants else model

    def baselines(self, task: str, train_per_label: int | None = None, draws: int | None = None) -> list[StudyRun]:
        """The plan's baselines on all or so many training texts of a class, of so many draws of them (default: all)."""
        most = self.plan.pretraining_seeds * self.plan.finetuning_seeds
        seeds = range((draws or most) if self.plan.redraw else 1)
        options = [{"task": task, "task_options": self.task_options(task, seed, train_per_label)} for seed in seeds]
        few = _of_labels(train_per_label)
        return [StudyRun(kind, f"{task}-{kind}{few}", each) for kind in self.plan.baselines for each in options]

    def label_counts(self, task: str) -> dict[int, int | None]:
        """Training texts of a class in finding e, up to the task's own, which is None: other findings have its runs."""
        own = self.plan.tasks[task].get("train_per_label")
        counts = [count for count in self.plan.labels.train_per_label if own is None or count <= own]
        return {count: None if count == own else count for count in counts}

    def task_options(self, task: str, seed: int, train_per_label: int | None = None) -> Json:
        """Those of the plan; with `redraw` each fine-tuning seed has other training texts."""
        options = self.plan.tasks[task] | ({"train_seed": seed} if self.plan.redraw else {})
        if train_per_label is None:
            return options
        held_out = self.plan.labels.validation_per_label
        fewer = {"train_per_label": train_per_label}
        return options | fewer | ({} if held_out is None else {"validation_per_label": held_out})

    def pretraining(self, recipe: str, seed: int, subset: str = "", **changes: Any) -> StudyRun:
        """The run that pre-trains an encoder; `subset` is a configuration of the overlap subsets."""
        settings = {"recipe": recipe, "size": self.plan.recipe_size, "seed": seed, "tokenizer": self.tokenizer.name}
        settings |= {"corpus": self.plan.corpus, **self.plan.pretraining[recipe], **changes}
        needs, texts = [self.tokenizer], f"{settings['num_texts']}-texts"
        if subset:
            chosen = self.subsets(seed)
            needs, texts = [self.tokenizer, chosen], subset
            settings |= {"corpus": chosen.name, "corpus_config": subset}
            del settings["num_texts"]
        label = f"pretrain-{recipe}-{texts}-{settings['max_steps']}-steps-{seed}"
        return StudyRun("pretrain", label, settings, tuple(needs))

    def finetuning(
        self,
        recipe: str,
        task: str,
        encoder: StudyRun | None,
        seed: int,
        candidate: Candidate,
        train_per_label: int | None = None,
        draw: int | None = None,
    ) -> StudyRun:
        """The run that fine-tunes an encoder (None: new weights) with the settings of a candidate."""
        tuning = self.plan.finetuning[recipe]
        epochs = (None if train_per_label is None else self.plan.labels.num_train_epochs) or tuning.num_train_epochs
        options = self.task_options(task, seed if draw is None else draw, train_per_label)
        settings: Json = {"recipe": recipe, "size": self.plan.recipe_size, "task": task, "seed": seed}
        settings |= {"task_options": options, "tokenizer": self.tokenizer.name}
        settings |= {"encoder": None if encoder is None else encoder.name}
        settings |= {"num_train_epochs": epochs if epochs % 1 else int(epochs)}  # 8 and 8.0 are one run
        patience = tuning.patience if train_per_label is None else self.plan.labels.patience or tuning.patience
        settings |= {} if patience is None else {"patience": patience}
        settings |= candidate.model_dump(exclude_none=True)
        arm = "scratch" if encoder is None else "pretrained"
        needs = (self.tokenizer,) if encoder is None else (self.tokenizer, encoder)
        name = f"{task}-{recipe}-{arm}-{seed}{_of_labels(train_per_label)}"
        return StudyRun("finetune", name, settings, needs)

    def candidates(
        self, model: str, task: str, arm: str, train_per_label: int | None = None
    ) -> dict[Candidate, list[StudyRun]]:
        """The runs that try each candidate, with the first seeds' own encoders; a best rate at the edge is followed."""
        recipe, rates, n = self.recipe(model), self.plan.rates, self.plan.finetuning_seeds
        encoders = {} if arm == "scratch" else self.encoders(model if rates.variants else recipe)
        tries = [(encoders.get(seed // n, encoders.get(0, (None,)))[0], seed) for seed in range(rates.seeds)]
        options, runs = list(getattr(self.plan.finetuning[recipe], arm)), {}
        most = len(options) + (rates.follow if len(options) > 1 else 0)
        for option in options:
            runs[option] = [self.finetuning(recipe, task, *each, option, train_per_label) for each in tries]
            if len(runs) == len(options) < most:
                options += _beyond_edge(self.means(runs))
        return runs

    def means(self, runs: Mapping[Candidate, list[StudyRun]]) -> dict[Candidate, float]:
        """Mean validation accuracy of each candidate; empty until all have run."""
        if any(run.name not in self.validation for tries in runs.values() for run in tries):
            return {}
        return {option: mean(self.validation[run.name] for run in tries) for option, tries in runs.items()}

    def chosen(self, model: str, task: str, arm: str, train_per_label: int | None = None) -> Candidate | None:
        """The candidate with the best mean validation accuracy (the first of equals); None until all have run."""
        runs = self.candidates(model, task, arm, train_per_label)
        means = self.means(runs) if len(runs) > 1 else dict.fromkeys(runs, 0.0)
        return max(means, key=means.__getitem__, default=None)

    def runs(self, point: Point) -> dict[int, list[StudyRun]]:
        """By seed the fine-tunings of a point with the chosen candidate; empty until it is chosen."""
        candidate = self.chosen(point.rates, point.task, point.arm, point.train_per_label)
        return {} if candidate is None else self._runs_with(candidate, point)

    def _runs_with(self, candidate: Candidate, point: Point) -> dict[int, list[StudyRun]]:
        recipe, options = self.recipe(point.rates), (candidate, point.train_per_label, point.draw)
        return {
            key: [self.finetuning(recipe, point.task, encoder, seed, *options) for seed in seeds]
            for key, (encoder, seeds) in point.encoders.items()
        }

    def seeds(self, model: str) -> int:
        """How many encoders of a recipe finding a has, unless a committee of it has more members."""
        is_deep = self.recipe(model) == self.plan.committee.reference
        return (is_deep and self.plan.committee.reference_seeds) or self.plan.pretraining_seeds

    def encoders(self, model: str) -> dict[int, tuple[StudyRun, list[int]]]:
        """Encoders of a recipe or variant on the whole corpus by seed, with their own fine-tuning seeds."""
        plan, variant = self.plan, self.plan.committee.variants.get(model)
        members, several = plan.committee.members.get(model, 0), 0
        changes: Json = {}
        if variant is not None:
            model, members, changes = plan.shallow, variant.members, variant.pretraining
        elif model in plan.gap_models:
            several = self.seeds(model)
        encoders = {}
        for seed in range(max(members, several)):
            first, count = seed * plan.finetuning_seeds, plan.finetuning_seeds if seed < several else 1
            encoders[seed] = (self.pretraining(model, seed, **changes), list(range(first, first + count)))
        return encoders

    def on_texts(self, texts: int, own: bool, **changes: Any) -> dict[int, tuple[StudyRun, list[int]]]:
        """Encoders of the shallow recipe on so many texts, which each of them chooses (`own`) or all share."""
        encoders = {}
        for seed in range(self.plan.corpus_size.seeds or self.plan.pretraining_seeds):
            options = {**changes, "num_texts": texts} | ({"subset_seed": seed} if own and seed else {})
            encoder = self.pretraining(self.plan.shallow, seed, **options)
            encoders[seed] = (encoder, [seed * self.plan.finetuning_seeds])
        return encoders

    def points(self, task: str) -> Iterator[Point]:
        """The points of all findings on a task."""
        plan, shallow, n = self.plan, self.plan.shallow, self.plan.finetuning_seeds
        variants = plan.committee.variants

        def scratch(model: str) -> dict[int, tuple[StudyRun | None, list[int]]]:
            return {seed: (None, [seed]) for seed in range(self.seeds(model) * n)}

        for model in plan.gap_models:
            yield Point(GAP, task, model, "scratch", model, scratch(model))
            yield Point(GAP, task, model, "pretrained", model, self.encoders(model))
        # Members with other training texts would know more labels together than what they are compared with.
        one_draw = 0 if plan.redraw else None
        for model in dict.fromkeys([*plan.gap_models, *plan.committee.members]):
            encoders = self.encoders(model)
            if plan.redraw and model != shallow:  # with several fine-tunings of each, those of the shallow recipe alone
                encoders = {p: (encoder, several[:1]) for p, (encoder, several) in encoders.items()}
            if self.recipe(model) == shallow and plan.committee.of_one_encoder > 1:
                last, first = max(encoders), 1 + max(seed for _, several in encoders.values() for seed in several)
                more = range(first, first + plan.committee.of_one_encoder - 1)  # seeds that no other fine-tuning has
                encoders[last] = (encoders[last][0], [encoders[last][1][0], *more])
            yield Point(COMMITTEE, task, model, "pretrained", model, encoders, draw=one_draw)
        yield Point(COMMITTEE, task, shallow, "scratch", shallow, scratch(shallow), draw=one_draw)
        every = {p: [p * n] for p in range(plan.pretraining_seeds)}
        if (texts := plan.committee.own_texts) is not None:
            for model, changes in {shallow: {}, **{v: each.pretraining for v, each in variants.items()}}.items():
                encoders = self.on_texts(texts, own=True, **changes)
                yield Point(COMMITTEE, task, f"{model}, own texts", "pretrained", model, encoders, draw=one_draw)
        sizes, steps = sorted(set(plan.corpus_size.num_texts)), plan.corpus_size.max_steps
        for equal, texts in product(("steps", "epochs"), sizes):
            of_size = steps if equal == "steps" else round(steps * texts / sizes[-1])
            redrawn = plan.redraw and texts != plan.pretraining[shallow]["num_texts"]  # which other findings share
            encoders = self.on_texts(texts, redrawn, max_steps=of_size)
            yield Point(CORPUS_SIZE, task, f"{shallow}, equal {equal}", texts, shallow, encoders)
        alike = [name for name, each in variants.items() if each.pretraining == plan.overlap.pretraining]
        changes = {**plan.overlap.pretraining, "max_steps": plan.overlap.max_steps}
        for kind in KINDS:  # the random subset is the same for all tasks (`execute` checks that)
            subset = f"{next(iter(plan.tasks)) if kind == 'random' else task}-{kind}"
            encoders = {p: (self.pretraining(shallow, p, subset, **changes), every[p]) for p in every}
            yield Point(OVERLAP, task, f"{shallow}, {kind} overlap", kind, next(iter(alike), shallow), encoders)
        seeds = {p: every[p] for p in range(plan.labels.seeds or plan.pretraining_seeds)}
        for count, fewer in self.label_counts(task).items():
            for model in [shallow, *variants]:
                encoders = {p: (encoder, [p * n]) for p, (encoder, _) in self.encoders(model).items() if p in seeds}
                yield Point(LABELS, task, model, count, model, encoders, fewer)
            yield Point(LABELS, task, "scratch", count, shallow, {p: (None, seeds[p]) for p in seeds}, fewer)

    def expand(
        self, findings: Collection[str] = (), tasks: Collection[str] = (), recipes: Collection[str] = ()
    ) -> tuple[dict[str, StudyRun], int]:
        """The runs of findings, tasks and recipes (default: all) that can be named now, and how many wait for a rate.

        They are in the order in which they are done: low seeds first, so that one that stops has some of every finding.
        """
        compared = not findings or GAP in findings or COMMITTEE in findings  # with baselines and by latency
        planned, waiting = [], set()
        tasks = [task for task in self.plan.tasks if not tasks or task in tasks]
        for task in tasks:
            fits = self.baselines(task) if compared else []
            for fewer in self.label_counts(task).values() if not findings or LABELS in findings else ():
                every = self.baselines(task, fewer, self.plan.labels.seeds)
                fits += [run for run in every if run.kind == "linear"]  # all that e compares
            planned += [(run.settings["task_options"].get("train_seed", 0), run) for run in fits]
        points = [point for task in tasks for point in self.points(task)]
        against = GAP if {CORPUS_SIZE, OVERLAP} & {*findings} else ""  # new weights are compared with
        for point in points:
            is_compared = (point.finding, point.model, point.arm) == (against, self.plan.shallow, "scratch")
            if findings and point.finding not in findings and not is_compared:
                continue
            if recipes and self.recipe(point.rates) not in recipes:
                continue
            candidates = self.candidates(point.rates, point.task, point.arm, point.train_per_label)
            if len(candidates) > 1:  # first of all: further runs wait for the choice
                planned += [(0, run) for tries in candidates.values() for run in tries]
            runs = self.runs(point)
            for seed, (encoder, _) in point.encoders.items():
                planned += [] if encoder is None else [(seed, encoder)]
                planned += [(seed + place, run) for place, run in enumerate(runs.get(seed, []))]
            if not runs:  # tries are not counted again
                first, tries = next(iter(candidates.items()))
                for several in self._runs_with(first, point).values():
                    waiting |= {run.name for run in several} - {run.name for run in tries}
        ordered = [run for _, each in sorted(planned, key=itemgetter(0)) for run in _with_needs(each)]
        ordered += [self.latency] if compared else []  # it is measured alone on the machine
        return {run.name: run for run in ordered}, len(waiting)


def _of_labels(train_per_label: int | None) -> str:
    """The end of the names of runs on so many training texts of a class; nothing for the task's own number."""
    return "" if train_per_label is None else f"-{train_per_label}-labels"


def _with_needs(run: StudyRun) -> Iterator[StudyRun]:
    for need in run.needs:
        yield from _with_needs(need)
    yield run


def _beyond_edge(means: Mapping[Candidate, float]) -> list[Candidate]:
    """The candidate beyond the best one, where that has the lowest or highest rate of its kind."""
    if means:
        best = max(means, key=means.__getitem__)
        rates = [option.learning_rate for option in means if option.initializer_range == best.initializer_range]
        factors = {min(rates): 1 / EDGE_FACTOR, max(rates): EDGE_FACTOR}
        if best.learning_rate in factors:
            rate = float(f"{best.learning_rate * factors[best.learning_rate]:.2g}")
            return [best.model_copy(update={"learning_rate": rate})]
    return []
