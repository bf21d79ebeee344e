"""The study's runs: all four findings of a plan (`plan_file`).

A run is a dictionary of settings; its name ends in the SHA-256 of them, those of the runs that it needs included. So a
changed setting makes a new run, and findings that need the same encoder share it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..data.overlap_subsets import KINDS
from ..recipes import find_size
from .defaults import mark
from .plan_file import SizePlan

GAP, CORPUS_SIZE, OVERLAP, COMMITTEE, BASELINES = "gap", "corpus_size", "overlap", "committee", "baselines"
FINDINGS = (GAP, CORPUS_SIZE, OVERLAP, COMMITTEE, BASELINES)


@dataclass(frozen=True)
class StudyRun:
    """One piece of work.

    Args:
        kind: tokenizer, subsets, pretrain, finetune, tfidf, sentence or latency.
        label: what people read; the folder's name is `label-hash`.
        settings: all that decides the result, JSON values; ids of needed runs included.
        needs: names of the runs that must be there first.
        findings: which findings use it.
        priority: lower runs first, so that a study that is stopped early has something of every finding.
    """

    kind: str
    label: str
    settings: dict[str, Any]
    needs: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    priority: int = 0

    @property
    def name(self) -> str:
        """Content address: the label and the first 10 digits of the SHA-256 of kind, settings and changed defaults."""
        text = json.dumps({"kind": self.kind, **self.settings, **mark(self.kind, self.settings)}, sort_keys=True)
        return f"{self.label}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass
class Expansion:
    """The runs that can be named now, and how many fine-tunings wait for the choice of their rates.

    `open` has, by arm, the candidates that are still to be done where others are: without them nothing is said of it.
    """

    runs: dict[str, StudyRun] = field(default_factory=dict)
    waiting: int = 0
    open: dict[str, list[str]] = field(default_factory=dict)

    def add(self, run: StudyRun) -> str:
        """Add a run, or a finding to the run that is there already; returns its name."""
        there = self.runs.get(run.name)
        if there is not None:
            findings = (*there.findings, *(name for name in run.findings if name not in there.findings))
            run = replace(run, findings=findings, priority=min(there.priority, run.priority))
        self.runs[run.name] = run
        for need in run.needs:  # what a run needs is wanted by its findings, and no later than it
            self.add(replace(self.runs[need], findings=run.findings, priority=run.priority))
        return run.name


def validation_accuracies(records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """By name what the finished fine-tunings among the records reached on validation."""
    return {name: found["validation"]["accuracy"] for name, found in records.items() if found["kind"] == "finetune"}


class Planner:
    """Names the runs of a plan.

    Args:
        plan: of one size.
        validation: by run name, the validation accuracy of finished fine-tunings: rates are chosen with it.
    """

    def __init__(self, plan: SizePlan, validation: Mapping[str, float]) -> None:
        self.plan = plan
        self.validation = validation
        self.found = Expansion()
        others = list(plan.committee["members"])[1:]
        self.priorities = {recipe: 60 for recipe in others if recipe not in plan.gap["recipes"]}
        self.priorities.setdefault(plan.committee["reference"], self._dear(0))
        scale = find_size(plan.recipe_size)
        self.tokenizer = self.found.add(
            StudyRun(
                "tokenizer",
                "tokenizer",
                {
                    "corpus": plan.corpus,
                    "num_texts": plan.tokenizer["num_texts"],
                    "vocab_size": plan.tokenizer.get("vocab_size", scale.vocab_size),
                    "max_length": scale.max_length,
                },
            )
        )

    def expand(self) -> Expansion:
        """All runs that can be named: rates that are not chosen yet leave their fine-tunings waiting."""
        for finding in (self._gap, self._committee, self._corpus_size, self._overlap, self._baselines):
            finding()
        return self.found

    def pretraining(
        self, recipe: str, seed: int, findings: Sequence[str], priority: int, subset: str = "", **changes: Any
    ) -> str:
        """The run that pre-trains an encoder; `subset` is a configuration of the overlap subsets."""
        options = {**self.plan.pretraining[recipe], **changes}
        needs = [self.tokenizer]
        settings = {
            "recipe": recipe,
            "size": self.plan.recipe_size,
            "seed": seed,
            "tokenizer": self.tokenizer,
            **options,
        }
        if subset:
            needs.append(self.subsets())
            settings |= {"corpus": self.subsets(), "corpus_config": subset}
            settings.pop("num_texts", None)
        else:
            settings["corpus"] = self.plan.corpus
        texts = subset or f"{settings['num_texts']}-texts"
        label = f"pretrain-{recipe}-{texts}-{settings['max_steps']}-steps-{seed}"
        return self.found.add(StudyRun("pretrain", label, settings, tuple(needs), tuple(findings), priority))

    def subsets(self) -> str:
        """The run that chooses subsets of high, random and low overlap with each task."""
        options = self.plan.overlap
        settings = {
            "corpus": self.plan.corpus,
            "corpus_texts": options["corpus_texts"],
            "num_texts": options["num_texts"],
            "tasks": self.plan.tasks,
            "tokenizer": self.tokenizer,
            "max_length": find_size(self.plan.recipe_size).max_length,
        }
        return self.found.add(StudyRun("subsets", "subsets", settings, (self.tokenizer,), (OVERLAP,), 20))

    def finetuning(
        self, recipe: str, task: str, encoder: str | None, seed: int, findings: Sequence[str], priority: int,
        candidate: dict[str, Any],
    ) -> str:  # fmt: skip
        """The run that fine-tunes an encoder (None: new weights) with the settings of a candidate."""
        options = self.plan.finetuning[recipe]
        settings = {
            "recipe": recipe,
            "size": self.plan.recipe_size,
            "task": task,
            "task_options": self.plan.tasks[task],
            "tokenizer": self.tokenizer,
            "encoder": encoder,
            "seed": seed,
            "num_train_epochs": options["num_train_epochs"],
            **candidate,
        }
        arm = "scratch" if encoder is None else "pretrained"
        needs = (self.tokenizer,) if encoder is None else (self.tokenizer, encoder)
        label = f"{task}-{recipe}-{arm}-{seed}"
        return self.found.add(StudyRun("finetune", label, settings, needs, tuple(findings), priority))

    def candidates(
        self, recipe: str, task: str, arm: str, findings: Sequence[str] = (), priority: int = 0
    ) -> list[str]:  # fmt: skip
        """The runs among which validation chooses, in the plan's order: the first seeds with each candidate."""
        encoder = self.pretraining(recipe, 0, findings, priority) if arm == "pretrained" else None
        options = self.plan.finetuning[recipe][arm]
        return [self.finetuning(recipe, task, encoder, 0, findings, priority, candidate) for candidate in options]

    def chosen(self, recipe: str, task: str, arm: str, findings: Sequence[str] = ()) -> dict[str, Any] | None:
        """The candidate of the best validation accuracy with the first seeds; None until all were tried.

        Each arm chooses for itself, and scratch its initial weights too. Among equals the first in the plan's order.
        """
        candidates: list[dict[str, Any]] = self.plan.finetuning[recipe][arm]
        if len(candidates) == 1:
            return candidates[0]
        # As soon as its first encoder is there: further runs wait for the choice.
        first = self.priorities.get(recipe, 10)
        names = self.candidates(recipe, task, arm, findings, first)
        left = [name for name in names if name not in self.validation]
        if left:
            if len(left) < len(names):
                self.found.open[f"{task}, {recipe}, {arm}"] = left
            return None
        best = max(range(len(names)), key=lambda place: (self.validation[names[place]], -place))
        return candidates[best]

    def runs_of(
        self, recipe: str, arm: str, encoder: str | None, seeds: Sequence[int], findings: Sequence[str], priority: int,
        tasks: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """Fine-tunings of an encoder on tasks (all of them by default) over seeds, with the chosen settings."""
        for task in self.plan.tasks if tasks is None else tasks:
            candidate = self.chosen(recipe, task, arm, findings)
            if candidate is None:
                self.found.waiting += len(seeds)
                continue
            for seed in seeds:
                self.finetuning(recipe, task, encoder, seed, findings, priority, candidate)

    def gap_seeds(self) -> Iterator[tuple[int, list[int]]]:
        """Pre-training seeds, each with the fine-tuning seeds of its runs: no two runs have the same one."""
        tuned = self.plan.gap["finetuning_seeds"]
        for seed in range(self.plan.gap["pretraining_seeds"]):
            yield seed, [seed * tuned + place for place in range(tuned)]

    @staticmethod
    def _dear(seed: int) -> int:
        """Priority of the deep encoder: after the shallow ones' first seeds."""
        return 26 + 30 * seed

    def _gap(self) -> None:
        """Pre-trained against scratch; pre-training seed p has the fine-tuning seeds p n ... p n + n - 1."""
        for recipe in self.plan.gap["recipes"]:
            for seed, seeds in self.gap_seeds():
                is_dear = recipe == self.plan.committee["reference"]
                first = self._dear(seed) if is_dear else 10 + 2 * seed
                encoder = self.pretraining(recipe, seed, [GAP], first)
                for place, tuned in enumerate(seeds):
                    priority = first + 1 + 40 * place
                    self.runs_of(recipe, "pretrained", encoder, [tuned], [GAP], priority)
                    self.runs_of(recipe, "scratch", None, [tuned], [GAP], priority)

    def member_seeds(self, recipe: str) -> list[tuple[int, int]]:
        """(pre-training seed, fine-tuning seed) of each member: the first ones are runs of the gap."""
        tuned = self.plan.gap["finetuning_seeds"]
        return [(seed, seed * tuned) for seed in range(self.plan.committee["members"][recipe])]

    def longer_seeds(self) -> list[tuple[int, int]]:
        """(pre-training seed, fine-tuning seed) of the members with more steps: those of the first members."""
        tuned = self.plan.gap["finetuning_seeds"]
        return [(seed, seed * tuned) for seed in range(self.plan.longer.get("members", 0))]

    def longer_encoder(self, seed: int, findings: Sequence[str] = (), priority: int = 0) -> str:
        """The run that pre-trains a member with more steps."""
        return self.pretraining(
            self.plan.first_member, seed, findings, priority, max_steps=self.plan.longer["max_steps"]
        )

    def encoder_seeds(self, recipe: str) -> dict[int, list[int]]:
        """Pre-training seeds of all encoders on the whole corpus, each with the fine-tuning seeds of its runs."""
        tuned = {}
        if recipe in self.plan.committee["members"]:
            tuned = {seed: [one] for seed, one in self.member_seeds(recipe)}
        if recipe in (*self.plan.gap["recipes"], self.plan.committee["reference"]):
            tuned |= dict(self.gap_seeds())
        return dict(sorted(tuned.items()))

    def _committee(self) -> None:
        for number, recipe in enumerate(self.plan.committee["members"]):
            for place, (seed, tuned) in enumerate(self.member_seeds(recipe)):
                priority = 15 + 4 * place + 45 * min(number, 1)
                encoder = self.pretraining(recipe, seed, [COMMITTEE], priority)
                self.runs_of(recipe, "pretrained", encoder, [tuned], [COMMITTEE], priority + 1)
        findings = [COMMITTEE, GAP] if self.plan.longer_name in self.plan.gap_models() else [COMMITTEE]
        for place, (seed, tuned) in enumerate(self.longer_seeds()):  # before the other recipes
            priority = 45 + 4 * place
            encoder = self.longer_encoder(seed, findings, priority)
            self.runs_of(self.plan.first_member, "pretrained", encoder, [tuned], findings, priority + 1)
        reference = self.plan.committee["reference"]
        for seed, seeds in self.gap_seeds():  # what the committees are compared with
            encoder = self.pretraining(reference, seed, [COMMITTEE], self._dear(seed))
            for place, tuned in enumerate(seeds):
                priority = self._dear(seed) + 1 + 40 * place
                self.runs_of(reference, "pretrained", encoder, [tuned], [COMMITTEE], priority)
        settings = {
            "size": self.plan.recipe_size,
            "members": dict(self.plan.committee["members"]),
            "reference": self.plan.committee["reference"],
            "counts": self.plan.committee["counts"],
            "batch_size": self.plan.committee["batch_size"],
        }
        self.found.add(StudyRun("latency", "latency", settings, (), (COMMITTEE,), 10_000))

    def corpus_steps(self) -> Iterator[tuple[int, str, int]]:
        """(texts, what is equal, steps) of each point of the finding on the corpus size."""
        options, largest = self.plan.corpus_size, self.plan.corpus_size["num_texts"][-1]
        for texts in options["num_texts"]:
            yield texts, "steps", options["max_steps"]
            yield texts, "epochs", round(options["max_steps"] * texts / largest)

    def _corpus_size(self) -> None:
        recipe = self.plan.corpus_size["recipe"]
        for seed in range(self.plan.corpus_size["pretraining_seeds"]):
            for texts, _, steps in self.corpus_steps():
                priority = 24 + 15 * seed
                changes: dict[str, Any] = {"num_texts": texts, "max_steps": steps}
                encoder = self.pretraining(recipe, seed, [CORPUS_SIZE], priority, **changes)
                tuned = [seed * self.plan.gap["finetuning_seeds"]]
                self.runs_of(recipe, "pretrained", encoder, tuned, [CORPUS_SIZE], priority + 1)
                self.runs_of(recipe, "scratch", None, tuned, [CORPUS_SIZE], priority + 1)

    def overlap_encoder(self, task: str, kind: str, seed: int, findings: Sequence[str] = (), priority: int = 0) -> str:
        """The run that pre-trains on a subset; the random one is the same for all tasks (`execute` checks that)."""
        config = f"{next(iter(self.plan.tasks)) if kind == 'random' else task}-{kind}"
        options = self.plan.overlap
        return self.pretraining(
            options["recipe"], seed, findings, priority, subset=config, max_steps=options["max_steps"]
        )

    def _overlap(self) -> None:
        recipe, options = self.plan.overlap["recipe"], self.plan.overlap
        for seed in range(options["pretraining_seeds"]):
            for task in self.plan.tasks:
                for kind in KINDS:
                    priority = 22 + 15 * seed
                    encoder = self.overlap_encoder(task, kind, seed, [OVERLAP], priority)
                    tuned = [seed * self.plan.gap["finetuning_seeds"]]
                    self.runs_of(recipe, "pretrained", encoder, tuned, [OVERLAP], priority + 1, [task])
                    self.runs_of(recipe, "scratch", None, tuned, [OVERLAP], priority + 1, [task])

    def baselines(self, task: str) -> list[StudyRun]:
        """The rows that stand in every table."""
        settings = {"task": task, "task_options": self.plan.tasks[task]}
        kinds = ["tfidf", "sentence"] if self.plan.sentence_encoder else ["tfidf"]
        return [StudyRun(kind, f"{task}-{kind}", settings, (), (BASELINES,), 5) for kind in kinds]

    def _baselines(self) -> None:
        for task in self.plan.tasks:
            for run in self.baselines(task):
                self.found.add(run)
