"""The study's plan as it is written: each size of `plan.yaml`, read into models and checked before any run."""

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..data.task_options import TaskArguments
from ..data.tasks import load_task
from ..errors import UserError
from ..recipes import find_architecture, find_size
from ..runs.atomic_files import Json, read_yaml
from ..training.options import check_names, refuse
from ..training.pretrain import load_pretraining_corpus
from ..training.pretrain_options import GROUPS, CorpusOptions

PLAN_FILE = Path(__file__).with_name("plan.yaml")
ARM_NAMES = {"pretrained": "pre-trained", "scratch": "from scratch"}
BASELINE_NAMES = {"linear": "TF-IDF + linear model", "minilm": "frozen MiniLM-L6 + linear model"}  # by kind
SET_BY_STUDY = (
    *("corpus", "corpus_config", "data_root", "disable_tqdm", "num_members", "num_threads", "output_dir"),
    *("recipe", "seed", "size", "task", "tokenizer", "workers"),
)
Count = Annotated[int, Field(ge=1)]
MOST_MEMBERS = 12  # of a recipe: all committees of each size are evaluated
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the plan: unknown fields and values of another type are refused; `plan.yaml` explains the fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Candidate(Section):
    """Settings of a fine-tuning among which validation chooses."""

    learning_rate: Positive
    initializer_range: Positive | None = None


class FinetuningPlan(Section):
    """Fine-tuning of a recipe, with the candidates of each arm."""

    num_train_epochs: Positive
    patience: Count | None = None
    pretrained: list[Candidate] = Field(min_length=1)
    scratch: list[Candidate] = Field(min_length=1)


class RatesPlan(Section):
    """How candidates are chosen: by the mean over so many seeds, and how often a best rate at the edge is followed."""

    seeds: Count = 3
    follow: int = Field(default=2, ge=0)
    variants: bool = True


class CorpusSizePlan(Section):
    """Finding b."""

    num_texts: list[Count] = Field(min_length=1)
    max_steps: Count
    seeds: Count | None = None


class OverlapPlan(Section):
    """Finding c."""

    num_texts: Count
    corpus_texts: Count
    max_steps: Count
    pretraining: Json = {}


class VariantPlan(Section):
    """Members of the first recipe that are pre-trained in another way: options of `tlm pretrain` beside its own."""

    members: Count
    pretraining: Json


class CommitteePlan(Section):
    """Finding d."""

    members: dict[str, Annotated[int, Field(ge=1, le=MOST_MEMBERS)]] = Field(min_length=1)
    reference: str
    reference_seeds: Count | None = None
    counts: list[Count] = Field(min_length=1)
    of_one_encoder: Annotated[int, Field(ge=1, le=MOST_MEMBERS)] = 1
    own_texts: Count | None = None
    batch_size: list[Count] = Field(min_length=1)
    variants: dict[str, VariantPlan] = {}


class LabelsPlan(Section):
    """Finding e: training texts of a class; with few an epoch is a few steps, so their `patience` may be another."""

    train_per_label: list[Count] = []
    seeds: Count | None = None
    validation_per_label: Count | None = None
    patience: Count | None = None
    num_train_epochs: Positive | None = None


class SizePlan(Section):
    """One size of the study."""

    recipe_size: str
    corpus: str
    tokenizer_texts: Count
    pretraining_seeds: Count
    finetuning_seeds: Count
    pretraining: dict[str, Json]
    tasks: dict[str, Json] = Field(min_length=1)
    finetuning: dict[str, FinetuningPlan]
    rates: RatesPlan = RatesPlan()
    redraw: bool = False
    corpus_size: CorpusSizePlan
    overlap: OverlapPlan
    committee: CommitteePlan
    labels: LabelsPlan = LabelsPlan()
    baselines: list[Literal["linear", "minilm"]] = ["linear"]

    @property
    def shallow(self) -> str:
        """Recipe of the plain committees, on which findings a to c are measured."""
        return next(iter(self.committee.members))

    @property
    def gap_models(self) -> list[str]:
        """Models of finding a: shallow, deep, and shallow pre-trained in other ways."""
        return list(dict.fromkeys([self.shallow, self.committee.reference, *self.committee.variants]))

    @model_validator(mode="after")
    def check(self) -> "SizePlan":
        """Refuse a plan whose runs could not be named or would fail."""
        find_size(self.recipe_size)
        for options in self.tasks.values():
            refuse(check_names(options, [TaskArguments]), SET_BY_STUDY, "the study sets it")
        changes = [self.overlap.pretraining, *(each.pretraining for each in self.committee.variants.values())]
        for options in [*self.pretraining.values(), *changes]:
            refuse(check_names(options, GROUPS), SET_BY_STUDY, "the study sets it")
        for recipe in (*self.committee.members, self.committee.reference):
            find_architecture(recipe)
            if recipe not in self.pretraining or recipe not in self.finetuning:
                raise ValueError(f"pretraining and finetuning need an entry for {recipe!r}, which the plan uses")
            for name in ("num_texts", "max_steps"):
                if not isinstance(self.pretraining[recipe].get(name), int):
                    raise ValueError(f"pretraining.{recipe}.{name} must be a whole number")
        if self.overlap.num_texts > self.overlap.corpus_texts:
            raise ValueError(f"overlap.num_texts is above the {self.overlap.corpus_texts} of overlap.corpus_texts")
        if self.committee.of_one_encoder > 1 < self.finetuning_seeds:
            raise ValueError("committee.of_one_encoder is for finetuning_seeds: 1, where each encoder has one")
        for name, seeds in (("corpus_size", self.corpus_size.seeds), ("labels", self.labels.seeds)):
            if (seeds or 1) > self.pretraining_seeds:
                raise ValueError(f"{name}.seeds is above the {self.pretraining_seeds} of pretraining_seeds")
        return self


def read_plan(size: str, file: str | Path = PLAN_FILE) -> SizePlan:
    """The plan of one size; UserError for a field that is unknown, missing or has a wrong value."""
    try:
        sizes = dict(read_yaml(Path(file)))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"The plan {file} cannot be read ({' '.join(str(error).split())}): correct it.") from error
    if size not in sizes:
        raise UserError(f"The plan {file} has no size {size!r}: choose one of {', '.join(sizes)}.")
    try:
        return SizePlan.model_validate(sizes[size])
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")  # a slip is also missing
        place, hint = ".".join(map(str, (size, *first["loc"]))), ""
        if first["type"] == "float_type":
            hint = f", not {first['input']!r} (YAML reads 1e-3 as text: write 1.0e-3)"
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise UserError(f"The plan {file}: {place}: {reason}{hint}.") from error


def check_data(plan: SizePlan, root: str | None, tasks: Collection[str] = ()) -> None:
    """Read the corpus and each task (or some) once: a missing one is a UserError before hours of runs."""
    names = {field.name for field in fields(CorpusOptions)}
    options = {name: value for each in plan.pretraining.values() for name, value in each.items() if name in names}
    counts = [plan.tokenizer_texts, plan.overlap.corpus_texts, *plan.corpus_size.num_texts]
    counts += [plan.committee.own_texts or 0]
    options["num_texts"] = max([*counts, *(each["num_texts"] for each in plan.pretraining.values())])
    load_pretraining_corpus(CorpusOptions(corpus=plan.corpus, data_root=root, **options), "laptop")
    for name in tasks or plan.tasks:
        load_task(name, root=root, **plan.tasks[name])
