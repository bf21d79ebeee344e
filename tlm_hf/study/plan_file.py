"""The study's plan as it is written: each size of `plan.yaml`, read into models and checked before any run."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..data.task_options import TaskArguments
from ..data.tasks import load_task
from ..errors import UserError
from ..recipes import find_architecture, find_size
from ..runs.atomic_files import Json
from ..training.options import option_fields
from ..training.pretrain import load_pretraining_corpus
from ..training.pretrain_options import GROUPS, CorpusOptions

PLAN_FILE = Path(__file__).with_name("plan.yaml")
ARM_NAMES = {"pretrained": "pre-trained", "scratch": "from scratch"}
BASELINE_NAMES = {"linear": "TF-IDF + linear model", "minilm": "frozen MiniLM-L6 + linear model"}
"""By kind of run the name in tables."""
SET_BY_STUDY = {
    "corpus", "corpus_config", "data_root", "disable_tqdm", "num_members", "num_threads", "output_dir", "recipe",
    "seed", "size", "task", "tokenizer", "workers",
}  # fmt: skip
"""Options of a run that a plan cannot name."""
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the plan: unknown fields and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Candidate(Section):
    """Settings of a fine-tuning among which validation chooses."""

    learning_rate: Positive
    initializer_range: Positive | None = None


class FinetuningPlan(Section):
    """Fine-tuning of a recipe: epochs, `patience` of `tlm finetune`, and the candidates of each arm."""

    num_train_epochs: Positive
    patience: Count | None = None
    pretrained: list[Candidate] = Field(min_length=1)
    scratch: list[Candidate] = Field(min_length=1)


class RatesPlan(Section):
    """How candidates are chosen: by the mean over so many seeds, and how often a best rate at the edge is followed."""

    seeds: Count = 3
    follow: int = Field(default=2, ge=0)


class CorpusSizePlan(Section):
    """Finding b."""

    num_texts: list[Count] = Field(min_length=1)
    max_steps: Count


class OverlapPlan(Section):
    """Finding c."""

    num_texts: Count
    corpus_texts: Count
    max_steps: Count


class LongerPlan(Section):
    """Members of the first recipe with more pre-training steps."""

    max_steps: Count
    members: Count


class CommitteePlan(Section):
    """Finding d."""

    members: dict[str, Count] = Field(min_length=1)
    reference: str
    counts: list[Count] = Field(min_length=1)
    batch_size: list[Count] = Field(min_length=1)
    longer: LongerPlan | None = None


class SizePlan(Section):
    """One size of the study; `plan.yaml` explains the fields."""

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
    baselines: list[Literal["linear", "minilm"]] = ["linear"]

    @property
    def shallow(self) -> str:
        """Recipe of the plain committees, on which findings a to c are measured."""
        return next(iter(self.committee.members))

    @property
    def longer_name(self) -> str:
        """`bert-1 of 24,000 steps`; empty where the plan has none."""
        longer = self.committee.longer
        return "" if longer is None else f"{self.shallow} of {longer.max_steps:,} steps"

    @property
    def gap_models(self) -> list[str]:
        """Models of finding a: shallow, deep, and shallow with more steps."""
        return list(filter(None, dict.fromkeys([self.shallow, self.committee.reference, self.longer_name])))


def read_plan(size: str, file: str | Path = PLAN_FILE) -> SizePlan:
    """The plan of one size.

    Raises:
        UserError: no such file or size, or a field that is unknown, missing or has a wrong value.
    """
    try:
        sizes = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The plan {file} cannot be read ({error.strerror}): name another --plan.") from error
    except yaml.YAMLError as error:
        raise UserError(f"The plan {file} is not valid YAML ({' '.join(str(error).split())}): fix it.") from error
    if not isinstance(sizes, dict) or size not in sizes:
        known = ", ".join(sizes) if isinstance(sizes, dict) else "none"
        raise UserError(f"The plan {file} has no size {size!r}: choose one of {known}.")
    try:
        plan = SizePlan.model_validate(sizes[size])
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")  # a slip is also missing
        place = ".".join(map(str, (size, *first["loc"])))
        value = "" if first["type"] in ("missing", "extra_forbidden") else f" is {first['input']!r}"
        hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if first["type"] == "float_type" else ""
        raise UserError(f"The plan {file}: {place}{value}: {first['msg']}{hint}.") from error
    _check(plan, f"The plan {file}: {size}")
    return plan


def _check(plan: SizePlan, where: str) -> None:
    """Refuse a plan whose runs could not be named or would fail."""
    find_size(plan.recipe_size)
    for task, options in plan.tasks.items():
        _check_names(options, [option.name for option in fields(TaskArguments)], f"{where}.tasks.{task}")
    for recipe, options in plan.pretraining.items():
        find_architecture(recipe)
        place = f"{where}.pretraining.{recipe}"
        _check_names(options, option_fields(GROUPS), place)
        for name in ("num_texts", "max_steps"):
            if not isinstance(options.get(name), int) or options[name] < 1:
                raise UserError(f"{place}.{name} is {options.get(name)!r}: write a whole number from 1.")
    for recipe in (*plan.committee.members, plan.committee.reference):
        for section in ("pretraining", "finetuning"):
            if recipe not in getattr(plan, section):
                raise UserError(f"{where}.{section} has no entry for {recipe!r}, which the plan uses: add one.")
    longer, steps = plan.committee.longer, plan.pretraining[plan.shallow]["max_steps"]
    if longer is not None and longer.max_steps <= steps:
        raise UserError(f"{where}.committee.longer.max_steps is {longer.max_steps}: give more than {steps}.")
    sizes = plan.corpus_size.num_texts
    if sorted(set(sizes)) != sizes:
        raise UserError(f"{where}.corpus_size.num_texts is {sizes}: write each once, in rising order.")
    if plan.overlap.num_texts > plan.overlap.corpus_texts:
        raise UserError(
            f"{where}.overlap.num_texts is {plan.overlap.num_texts}: choose at most the "
            f"{plan.overlap.corpus_texts} of overlap.corpus_texts."
        )


def _check_names(options: Json, known: Iterable[str], where: str) -> None:
    names = set(known) - SET_BY_STUDY
    for name in options:
        if name not in names:
            raise UserError(f"{where} has an unknown field {name!r}: choose among {', '.join(sorted(names))}.")


def check_data(settings: Sequence[Json], root: str | None) -> None:
    """Read the corpus and each task of these settings once: a missing one is a UserError before hours of other runs."""
    # Subsets of the corpus are made by a run of the study.
    corpora = [each for each in settings if "corpus" in each and "corpus_config" not in each]
    if corpora:
        names = {field.name for field in fields(CorpusOptions)} - {"num_texts"}
        options = {name: value for each in corpora for name, value in each.items() if name in names}
        most = max(each.get("corpus_texts") or each["num_texts"] for each in corpora)
        load_pretraining_corpus(CorpusOptions(num_texts=most, data_root=root, **options), "laptop")
    tasks = {each["task"]: each["task_options"] for each in settings if "task" in each}
    for each in settings:
        tasks |= each.get("tasks", {})
    for name, task_options in tasks.items():
        load_task(name, root=root, **task_options)
