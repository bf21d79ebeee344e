"""The study's runs: what all findings of a plan (`plan_file`) need.

The name of a run ends in a hash of its settings, names of the runs that it needs included: a changed setting makes a
new run, and findings that need the same encoder share it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean, stdev
from typing import Any

from ..data.overlap_subsets import KINDS
from ..recipes import find_size
from ..runs.atomic_files import Json
from .plan_file import Candidate, SizePlan

GAP, CORPUS_SIZE, OVERLAP, COMMITTEE, BASELINES = "gap", "corpus_size", "overlap", "committee", "baselines"
LAST = 10_000
"""Round of the latency, which is measured alone on the machine."""
EDGE_FACTOR = 3.0
"""Ratio of a rate beyond the edge of the grid to the rate at the edge."""


@dataclass(frozen=True, eq=False)
class StudyRun:
    """One piece of work and the runs that must be done before it."""

    kind: str
    label: str
    settings: Json
    needs: tuple["StudyRun", ...] = ()

    @cached_property
    def name(self) -> str:
        """Content address: the label and the first 10 digits of the SHA-256 of kind and settings."""
        text = json.dumps({"kind": self.kind, **self.settings}, sort_keys=True)
        return f"{self.label}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Finetunings:
    """Those of an encoder of a pre-training seed, or of new weights (None), with these seeds on these tasks."""

    recipe: str
    encoder: StudyRun | None
    pretraining_seed: int
    seeds: Sequence[int]
    tasks: Sequence[str]


@dataclass
class Expansion:
    """The runs that can be named now, each after those that it needs; the fine-tunings `waiting` for a rate.

    Runs of lower rounds come first, so that a study that is stopped early has something of every finding.
    """

    runs: dict[str, StudyRun] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    waiting: int = 0

    def add(self, run: StudyRun, at: int) -> None:
        """Add a run and what it needs; a run that several findings use has the lowest of their rounds."""
        for need in run.needs:
            self.add(need, at)
        self.runs.setdefault(run.name, run)
        self.rounds[run.name] = min(at, self.rounds.get(run.name, at))


class Planner:
    """Names the runs of a plan; `validation` is the accuracy of finished fine-tunings by name, which chooses rates."""

    def __init__(self, plan: SizePlan, validation: Mapping[str, float]) -> None:
        self.plan = plan
        self.validation = validation

    @cached_property
    def tokenizer(self) -> StudyRun:
        """The run that trains the WordPiece of all encoders."""
        size = find_size(self.plan.recipe_size)
        settings = {
            "corpus": self.plan.corpus,
            "num_texts": self.plan.tokenizer.num_texts,
            "vocab_size": size.vocab_size,
            "max_length": size.max_length,
        }
        return StudyRun("tokenizer", "tokenizer", settings)

    @cached_property
    def subsets(self) -> StudyRun:
        """The run that chooses subsets of high, random and low overlap with each task."""
        settings = {
            "corpus": self.plan.corpus,
            "corpus_texts": self.plan.overlap.corpus_texts,
            "num_texts": self.plan.overlap.num_texts,
            "tasks": self.plan.tasks,
            "tokenizer": self.tokenizer.name,
            "max_length": find_size(self.plan.recipe_size).max_length,
        }
        return StudyRun("subsets", "subsets", settings, (self.tokenizer,))

    @cached_property
    def latency(self) -> StudyRun:
        """The run that times the committees and the deep encoder."""
        options = self.plan.committee.model_dump(exclude={"longer"})  # pre-training steps change nothing of the time
        return StudyRun("latency", "latency", {"size": self.plan.recipe_size, **options})

    def baselines(self, task: str) -> list[StudyRun]:
        """The plan's baselines."""
        settings = {"task": task, "task_options": self.plan.tasks[task]}
        return [StudyRun(kind, f"{task}-{kind}", settings) for kind in self.plan.baselines]

    def pretraining(self, recipe: str, seed: int, subset: str = "", **changes: Any) -> StudyRun:
        """The run that pre-trains an encoder; `subset` is a configuration of the overlap subsets."""
        settings = {
            "recipe": recipe,
            "size": self.plan.recipe_size,
            "seed": seed,
            "tokenizer": self.tokenizer.name,
            **self.plan.pretraining[recipe],
            **changes,
        }
        needs, texts = [self.tokenizer], subset
        if subset:
            needs.append(self.subsets)
            settings |= {"corpus": self.subsets.name, "corpus_config": subset}
            del settings["num_texts"]
        else:
            settings["corpus"] = self.plan.corpus
            texts = f"{settings['num_texts']}-texts"
        label = f"pretrain-{recipe}-{texts}-{settings['max_steps']}-steps-{seed}"
        return StudyRun("pretrain", label, settings, tuple(needs))

    def on_subset(self, task: str, kind: str, seed: int) -> StudyRun:
        """The run that pre-trains on a subset; the random one is the same for all tasks (`execute` checks that)."""
        config = f"{next(iter(self.plan.tasks)) if kind == 'random' else task}-{kind}"
        return self.pretraining(self.plan.overlap.recipe, seed, config, max_steps=self.plan.overlap.max_steps)

    def finetuning(self, recipe: str, task: str, encoder: StudyRun | None, seed: int, candidate: Candidate) -> StudyRun:
        """The run that fine-tunes an encoder (None: new weights) with the settings of a candidate."""
        epochs = self.plan.finetuning[recipe].num_train_epochs
        settings = {
            "recipe": recipe,
            "size": self.plan.recipe_size,
            "task": task,
            "task_options": self.plan.tasks[task],
            "tokenizer": self.tokenizer.name,
            "encoder": None if encoder is None else encoder.name,
            "seed": seed,
            "num_train_epochs": epochs if epochs % 1 else int(epochs),  # 8 and 8.0 are one run
            **candidate.model_dump(exclude_none=True),
        }
        arm = "scratch" if encoder is None else "pretrained"
        needs = (self.tokenizer,) if encoder is None else (self.tokenizer, encoder)
        return StudyRun("finetune", f"{task}-{recipe}-{arm}-{seed}", settings, needs)

    def candidates(self, recipe: str, task: str, arm: str) -> dict[Candidate, list[StudyRun]]:
        """The runs that try each candidate, in the plan's order, on the first encoder.

        While the best rate is at the edge of those tried, one beyond it is added, at most `rates.follow` in all.
        """
        encoder = self.pretraining(recipe, 0) if arm == "pretrained" else None
        options, runs = list(self.plan.finetuning[recipe].candidates(arm)), {}
        most = len(options) + (self.plan.rates.follow if len(options) > 1 else 0)
        for option in options:
            runs[option] = [
                self.finetuning(recipe, task, encoder, seed, option) for seed in range(self.plan.rates.seeds)
            ]
            if len(runs) == len(options) < most:
                options += self._beyond_edge(runs)
        return runs

    def accuracy(self, runs: Sequence[StudyRun]) -> float | None:
        """Mean validation accuracy of fine-tunings; None until all are done."""
        accuracies = [self.validation.get(run.name) for run in runs]
        done = [accuracy for accuracy in accuracies if accuracy is not None]
        return mean(done) if len(done) == len(runs) else None

    def _means(self, runs: Mapping[Candidate, list[StudyRun]]) -> dict[Candidate, float]:
        """Mean validation accuracy of each candidate; empty until all are done."""
        means = {option: self.accuracy(tries) for option, tries in runs.items()}
        done = {option: value for option, value in means.items() if value is not None}
        return done if len(done) == len(runs) else {}

    def _beyond_edge(self, runs: Mapping[Candidate, list[StudyRun]]) -> list[Candidate]:
        """The candidate beyond the best one, where that has the lowest or highest rate of its kind."""
        means = self._means(runs)
        if not means:
            return []
        best = max(means, key=means.__getitem__)
        rates = [option.learning_rate for option in runs if option.initializer_range == best.initializer_range]
        if best.learning_rate == max(rates):
            beyond = best.learning_rate * EDGE_FACTOR
        elif best.learning_rate == min(rates):
            beyond = best.learning_rate / EDGE_FACTOR
        else:
            return []
        return [best.model_copy(update={"learning_rate": float(f"{beyond:.2g}")})]

    def chosen(self, recipe: str, task: str, arm: str) -> Candidate | None:
        """The lowest rate with a mean validation accuracy within a standard error of the best; None until all ran.

        The error is that of the best one's mean over seeds: with one seed the best is taken, the first of equals.
        """
        runs = self.candidates(recipe, task, arm)
        if len(runs) == 1:
            return next(iter(runs))
        means = self._means(runs)
        if not means:
            return None
        best = max(means, key=means.__getitem__)
        tries = [self.validation[run.name] for run in runs[best]]
        if len(tries) == 1:
            return best
        within = means[best] - stdev(tries) / len(tries) ** 0.5
        near = [option for option, value in means.items() if value >= within]
        return min(near, key=lambda option: (option.learning_rate, -means[option]))

    def tuned(self, recipe: str, task: str, encoder: StudyRun | None, seeds: Sequence[int]) -> list[StudyRun]:
        """Fine-tunings of an encoder (None: new weights) with the chosen candidate; none until it is chosen."""
        candidate = self.chosen(recipe, task, "scratch" if encoder is None else "pretrained")
        return [] if candidate is None else [self.finetuning(recipe, task, encoder, s, candidate) for s in seeds]

    def seeds(self, count: int, each: int = 1) -> dict[int, list[int]]:
        """Fine-tuning seeds by pre-training seed; p has p n, p n + 1, ..., so that no two encoders share one."""
        step = self.plan.gap.finetuning_seeds
        return {seed: [seed * step + place for place in range(each)] for seed in range(count)}

    @property
    def gap_seeds(self) -> dict[int, list[int]]:
        """Seeds of finding a."""
        return self.seeds(self.plan.gap.pretraining_seeds, self.plan.gap.finetuning_seeds)

    def members(self, recipe: str, task: str) -> list[StudyRun]:
        """The members' fine-tunings, whose first encoders are those of finding a; none until their rate is chosen."""
        seeds = self.seeds(self.plan.committee.members[recipe])
        return [run for s in seeds for run in self.tuned(recipe, task, self.pretraining(recipe, s), seeds[s])]

    def encoders(self, model: str) -> dict[int, tuple[StudyRun, list[int]]]:
        """All encoders of a recipe or `longer_name` on the whole corpus by seed, each with its fine-tuning seeds."""
        longer = self.plan.committee.longer
        if longer is not None and model == self.plan.longer_name:
            first, seeds = self.plan.first_member, self.seeds(longer.members)
            return {s: (self.pretraining(first, s, max_steps=longer.max_steps), seeds[s]) for s in seeds}
        seeds = self.seeds(self.plan.committee.members.get(model, 0))
        if model in (*self.plan.gap.recipes, self.plan.committee.reference):
            seeds |= self.gap_seeds
        return {seed: (self.pretraining(model, seed), seeds[seed]) for seed in sorted(seeds)}

    def corpus_steps(self) -> Iterator[tuple[int, str, int]]:
        """(texts, what is equal, steps) of each point of finding b."""
        steps, sizes = self.plan.corpus_size.max_steps, self.plan.corpus_size.num_texts
        for texts in sizes:
            yield texts, "steps", steps
            yield texts, "epochs", round(steps * texts / sizes[-1])

    def _finetunings(self) -> Iterator[Finetunings]:
        """Every encoder and its fine-tunings, by finding."""
        plan, tasks = self.plan, list(self.plan.tasks)
        for recipe in plan.gap.recipes:
            for seed, tuned in self.gap_seeds.items():
                yield Finetunings(recipe, None, seed, tuned, tasks)
        models = [*plan.gap.recipes, *plan.committee.members, plan.committee.reference]
        for model in dict.fromkeys([*models, *([plan.longer_name] if plan.longer_name else [])]):
            recipe = plan.first_member if model == plan.longer_name else model
            for seed, (encoder, tuned) in self.encoders(model).items():
                yield Finetunings(recipe, encoder, seed, tuned, tasks)
        recipe = plan.corpus_size.recipe
        for seed, tuned in self.seeds(plan.corpus_size.pretraining_seeds).items():
            yield Finetunings(recipe, None, seed, tuned, tasks)
            for texts, _, steps in self.corpus_steps():
                encoder = self.pretraining(recipe, seed, num_texts=texts, max_steps=steps)
                yield Finetunings(recipe, encoder, seed, tuned, tasks)
        recipe = plan.overlap.recipe
        for seed, tuned in self.seeds(plan.overlap.pretraining_seeds).items():
            yield Finetunings(recipe, None, seed, tuned, tasks)
            for task in tasks:
                for kind in KINDS:
                    yield Finetunings(recipe, self.on_subset(task, kind, seed), seed, tuned, [task])

    def expand(self) -> Expansion:
        """All runs that can be named: fine-tunings whose rates are not chosen yet are only counted."""
        expansion = Expansion()
        expansion.add(self.tokenizer, 0)
        for task in self.plan.tasks:
            for run in self.baselines(task):
                expansion.add(run, 0)
        for each in self._finetunings():
            if each.encoder is not None:
                expansion.add(each.encoder, each.pretraining_seed)
            for task in each.tasks:
                candidates = self.candidates(each.recipe, task, "scratch" if each.encoder is None else "pretrained")
                if len(candidates) > 1:  # first of all: further runs wait for the choice
                    for run in [run for tries in candidates.values() for run in tries]:
                        expansion.add(run, 0)
                runs = self.tuned(each.recipe, task, each.encoder, each.seeds)
                if not runs:
                    expansion.waiting += len(each.seeds)
                for place, run in enumerate(runs):
                    expansion.add(run, each.pretraining_seed + place)
        expansion.add(self.latency, LAST)
        return expansion
