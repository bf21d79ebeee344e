"""The study's runs: what all four findings of a plan (`plan_file`) need.

The name of a run ends in a hash of its settings, names of the runs that it needs included: a changed setting makes a
new run, and findings that need the same encoder share it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ..data.overlap_subsets import KINDS
from ..recipes import find_size
from ..runs.atomic_files import Json
from .plan_file import ARMS, SizePlan

GAP, CORPUS_SIZE, OVERLAP, COMMITTEE, BASELINES = "gap", "corpus_size", "overlap", "committee", "baselines"
FINDINGS = (GAP, CORPUS_SIZE, OVERLAP, COMMITTEE, BASELINES)


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
class Encoder:
    """A pre-trained encoder and its fine-tunings on these tasks (none means all), with `scratch` also from new weights.

    Runs of low priority numbers come first, so that a study that is stopped early has something of every finding.
    """

    recipe: str
    run: StudyRun
    seeds: Sequence[int]
    findings: tuple[str, ...]
    priority: int
    scratch: bool = False
    tasks: tuple[str, ...] = ()


@dataclass
class Expansion:
    """The runs that can be named now, each after those that it needs; the fine-tunings `waiting` for a rate."""

    runs: dict[str, StudyRun] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)
    priorities: dict[str, int] = field(default_factory=dict)
    waiting: int = 0

    def add(self, run: StudyRun, findings: Sequence[str], priority: int) -> None:
        """Add a run and what it needs; a run that several findings use has the lowest of their priorities."""
        for need in run.needs:
            self.add(need, findings, priority)
        self.runs.setdefault(run.name, run)
        known = self.findings.setdefault(run.name, [])
        known += [finding for finding in findings if finding not in known]
        self.priorities[run.name] = min(priority, self.priorities.get(run.name, priority))


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
        options = asdict(self.plan.committee)
        del options["longer"]  # more pre-training steps change nothing of the time
        return StudyRun("latency", "latency", {"size": self.plan.recipe_size, **options})

    def baselines(self, task: str) -> list[StudyRun]:
        """TF-IDF, and a frozen sentence encoder where the plan has it."""
        settings = {"task": task, "task_options": self.plan.tasks[task]}
        kinds = ["tfidf", "sentence"] if self.plan.sentence_encoder else ["tfidf"]
        return [StudyRun(kind, f"{task}-{kind}", settings) for kind in kinds]

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

    def finetuning(
        self, recipe: str, task: str, encoder: StudyRun | None, seed: int, candidate: Mapping[str, float]
    ) -> StudyRun:
        """The run that fine-tunes an encoder (None: new weights) with the settings of a candidate."""
        settings = {
            "recipe": recipe,
            "size": self.plan.recipe_size,
            "task": task,
            "task_options": self.plan.tasks[task],
            "tokenizer": self.tokenizer.name,
            "encoder": None if encoder is None else encoder.name,
            "seed": seed,
            "num_train_epochs": self.plan.finetuning[recipe].num_train_epochs,
            **candidate,
        }
        arm = "scratch" if encoder is None else "pretrained"
        needs = (self.tokenizer,) if encoder is None else (self.tokenizer, encoder)
        return StudyRun("finetune", f"{task}-{recipe}-{arm}-{seed}", settings, needs)

    def candidates(self, recipe: str, task: str, arm: str) -> list[StudyRun]:
        """The runs among which validation chooses, in the plan's order: the first seeds with each candidate."""
        encoder = self.pretraining(recipe, 0) if arm == "pretrained" else None
        options = self.plan.finetuning[recipe].candidates(arm)
        return [self.finetuning(recipe, task, encoder, 0, candidate) for candidate in options]

    def chosen(self, recipe: str, task: str, arm: str) -> dict[str, float] | None:
        """The candidate of the best validation accuracy, the first of equals; None until all were tried."""
        options = self.plan.finetuning[recipe].candidates(arm)
        if len(options) == 1:
            return options[0]
        accuracies = [self.validation.get(run.name) for run in self.candidates(recipe, task, arm)]
        tried = [accuracy for accuracy in accuracies if accuracy is not None]
        return options[accuracies.index(max(tried))] if len(tried) == len(options) else None

    def tuned(self, recipe: str, task: str, encoder: StudyRun | None, seeds: Sequence[int]) -> list[StudyRun]:
        """Fine-tunings of an encoder (None: new weights) with the chosen candidate; none until it is chosen."""
        candidate = self.chosen(recipe, task, "scratch" if encoder is None else "pretrained")
        if candidate is None:
            return []
        return [self.finetuning(recipe, task, encoder, seed, candidate) for seed in seeds]

    def seeds(self, count: int, each: int = 1) -> dict[int, list[int]]:
        """Fine-tuning seeds by pre-training seed; p has p n, p n + 1, ..., so that no two encoders share one."""
        step = self.plan.gap.finetuning_seeds
        return {seed: [seed * step + place for place in range(each)] for seed in range(count)}

    @property
    def gap_seeds(self) -> dict[int, list[int]]:
        """Seeds of finding a."""
        return self.seeds(self.plan.gap.pretraining_seeds, self.plan.gap.finetuning_seeds)

    def member_seeds(self, recipe: str) -> dict[int, list[int]]:
        """Seeds of a recipe's members: the first ones are encoders of finding a."""
        return self.seeds(self.plan.committee.members.get(recipe, 0))

    def members(self, recipe: str, task: str) -> list[StudyRun]:
        """The members' fine-tunings; none until their rate is chosen."""
        seeds = self.member_seeds(recipe)
        return [run for s in seeds for run in self.tuned(recipe, task, self.pretraining(recipe, s), seeds[s])]

    def encoders(self, model: str) -> dict[int, tuple[StudyRun, list[int]]]:
        """All encoders of a recipe or `longer_name` on the whole corpus by seed, each with its fine-tuning seeds."""
        longer = self.plan.committee.longer
        if longer is not None and model == self.plan.longer_name:
            first, seeds = self.plan.first_member, self.seeds(longer.members)
            return {s: (self.pretraining(first, s, max_steps=longer.max_steps), seeds[s]) for s in seeds}
        seeds = self.member_seeds(model)
        if model in (*self.plan.gap.recipes, self.plan.committee.reference):
            seeds |= self.gap_seeds
        return {seed: (self.pretraining(model, seed), seeds[seed]) for seed in sorted(seeds)}

    def corpus_steps(self) -> Iterator[tuple[int, str, int]]:
        """(texts, what is equal, steps) of each point of finding b."""
        steps, sizes = self.plan.corpus_size.max_steps, self.plan.corpus_size.num_texts
        for texts in sizes:
            yield texts, "steps", steps
            yield texts, "epochs", round(steps * texts / sizes[-1])

    def _priority(self, recipe: str, seed: int) -> int:
        """The deep encoder takes longest, so it follows the first seeds of the shallow ones."""
        if recipe == self.plan.committee.reference:
            return 26 + 30 * seed
        return 10 + 2 * seed if recipe in self.plan.gap.recipes else 60

    def _encoders(self) -> Iterator[Encoder]:
        """Every encoder, by finding."""
        plan = self.plan
        for recipe in plan.gap.recipes:
            for seed, tuned in self.gap_seeds.items():
                run = self.pretraining(recipe, seed)
                yield Encoder(recipe, run, tuned, (GAP,), self._priority(recipe, seed), scratch=True)
        for recipe in plan.committee.members:
            later = 0 if recipe == plan.first_member else 45
            for seed, tuned in self.member_seeds(recipe).items():
                yield Encoder(recipe, self.pretraining(recipe, seed), tuned, (COMMITTEE,), 15 + 4 * seed + later)
        findings = (COMMITTEE, GAP) if plan.longer_name in plan.gap_models else (COMMITTEE,)
        for seed, (run, tuned) in self.encoders(plan.longer_name).items() if plan.longer_name else ():
            yield Encoder(plan.first_member, run, tuned, findings, 45 + 4 * seed)
        deep = plan.committee.reference
        for seed, tuned in self.gap_seeds.items():
            yield Encoder(deep, self.pretraining(deep, seed), tuned, (COMMITTEE,), self._priority(deep, seed))
        recipe = plan.corpus_size.recipe
        for seed, tuned in self.seeds(plan.corpus_size.pretraining_seeds).items():
            for texts, _, steps in self.corpus_steps():
                run = self.pretraining(recipe, seed, num_texts=texts, max_steps=steps)
                yield Encoder(recipe, run, tuned, (CORPUS_SIZE,), 24 + 15 * seed, scratch=True)
        for seed, tuned in self.seeds(plan.overlap.pretraining_seeds).items():
            for task in plan.tasks:
                for kind in KINDS:
                    run = self.on_subset(task, kind, seed)
                    yield Encoder(plan.overlap.recipe, run, tuned, (OVERLAP,), 22 + 15 * seed, True, (task,))

    def expand(self) -> Expansion:
        """All runs that can be named: fine-tunings whose rates are not chosen yet are only counted."""
        expansion = Expansion()
        expansion.add(self.tokenizer, (), 0)
        for encoder in self._encoders():
            expansion.add(encoder.run, encoder.findings, encoder.priority)
            for task in encoder.tasks or self.plan.tasks:
                for arm in ARMS if encoder.scratch else ARMS[:1]:
                    self._add_finetunings(expansion, encoder, task, arm)
        expansion.add(self.latency, (COMMITTEE,), 10_000)
        for task in self.plan.tasks:
            for run in self.baselines(task):
                expansion.add(run, (BASELINES,), 5)
        return expansion

    def _add_finetunings(self, expansion: Expansion, encoder: Encoder, task: str, arm: str) -> None:
        candidates = self.candidates(encoder.recipe, task, arm)
        if len(candidates) > 1:  # first of all: further runs wait for the choice
            for candidate in candidates:
                expansion.add(candidate, encoder.findings, self._priority(encoder.recipe, 0))
        runs = self.tuned(encoder.recipe, task, encoder.run if arm == "pretrained" else None, encoder.seeds)
        if not runs:
            expansion.waiting += len(encoder.seeds)
        for place, run in enumerate(runs):
            expansion.add(run, encoder.findings, encoder.priority + 1 + 40 * place)
