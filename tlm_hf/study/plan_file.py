"""The study's plan as it is written: each size of `plan.yaml`, read into dataclasses and checked before any run."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from ..data.tasks import load_task
from ..errors import UserError
from ..recipes import find_architecture, find_size
from ..runs.atomic_files import Json
from ..training.options import option_fields
from ..training.pretrain import load_pretraining_corpus
from ..training.pretrain_options import GROUPS, CorpusOptions

PLAN_FILE = Path(__file__).with_name("plan.yaml")
ARMS = ("pretrained", "scratch")
CANDIDATE_OPTIONS = {"learning_rate", "initializer_range"}
TASK_OPTIONS = {
    "train_per_label", "validation_per_label", "test_per_label", "text_column", "label_column", "title_column",
    "entity_markers", "all_rows", "shortfall",
}  # fmt: skip
"""Options of a task that loading it and fine-tuning on it both take."""
CORPUS_OPTIONS = {"corpus", "text_column", "corpus_revision", "corpus_unit", "validation_texts", "subset_seed"}
SET_BY_STUDY = {
    "corpus", "corpus_config", "data_root", "disable_tqdm", "num_members", "num_threads", "output_dir", "recipe",
    "seed", "size", "tokenizer", "workers",
}  # fmt: skip
"""Options of a pre-training that a plan cannot name."""


@dataclass(frozen=True)
class TokenizerPlan:
    """The WordPiece of all encoders."""

    num_texts: int


@dataclass(frozen=True)
class FinetuningPlan:
    """Fine-tuning of a recipe: epochs, and by arm the candidates among which validation chooses."""

    num_train_epochs: float
    pretrained: list[dict[str, float]]
    scratch: list[dict[str, float]]

    def candidates(self, arm: str) -> list[dict[str, float]]:
        """The candidates of one arm."""
        return self.pretrained if arm == "pretrained" else self.scratch


@dataclass(frozen=True)
class GapPlan:
    """Finding a."""

    recipes: list[str]
    pretraining_seeds: int
    finetuning_seeds: int


@dataclass(frozen=True)
class CorpusSizePlan:
    """Finding b."""

    recipe: str
    num_texts: list[int]
    max_steps: int
    pretraining_seeds: int


@dataclass(frozen=True)
class OverlapPlan:
    """Finding c."""

    recipe: str
    num_texts: int
    corpus_texts: int
    max_steps: int
    pretraining_seeds: int


@dataclass(frozen=True)
class LongerPlan:
    """Members of the first recipe with more pre-training steps."""

    max_steps: int
    members: int


@dataclass(frozen=True)
class CommitteePlan:
    """Finding d."""

    members: dict[str, int]
    reference: str
    counts: list[int]
    batch_size: list[int]
    longer: LongerPlan | None = None


@dataclass(frozen=True)
class SizePlan:
    """One size of the study; `plan.yaml` explains the fields."""

    recipe_size: str
    corpus: str
    tokenizer: TokenizerPlan
    pretraining: dict[str, Json]
    tasks: dict[str, Json]
    finetuning: dict[str, FinetuningPlan]
    gap: GapPlan
    corpus_size: CorpusSizePlan
    overlap: OverlapPlan
    committee: CommitteePlan
    sentence_encoder: bool = False

    @property
    def first_member(self) -> str:
        """Recipe of the plain committees."""
        return next(iter(self.committee.members))

    @property
    def longer_name(self) -> str:
        """`bert-1 of 24,000 steps`; empty where the plan has none."""
        longer = self.committee.longer
        return "" if longer is None else f"{self.first_member} of {longer.max_steps:,} steps"

    @property
    def gap_models(self) -> list[str]:
        """Models of finding a: the recipes, and the first member with more steps where it is one of them."""
        with_longer = self.committee.longer is not None and self.first_member in self.gap.recipes
        return [*self.gap.recipes, *([self.longer_name] if with_longer else [])]


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
    plan: SizePlan = _read(SizePlan, sizes[size], f"The plan {file}: {size}")
    _check(plan, f"The plan {file}: {size}")
    return plan


def _read(kind: Any, value: Any, where: str) -> Any:
    """A YAML value as the annotated type: an int counts from 1, a float is above 0, collections are not empty."""
    origin, parts = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if type(None) in parts:
        return None if value is None else _read(parts[0], value, where)
    if origin is dict and kind != Json:
        if isinstance(value, dict) and value:
            return {name: _read(parts[1], each, f"{where}.{name}") for name, each in value.items()}
    elif origin is list:
        if isinstance(value, list) and value:
            return [_read(parts[0], each, where) for each in value]
    elif kind in (int, float):
        accepted = int if kind is int else int | float
        if isinstance(value, accepted) and not isinstance(value, bool) and value > 0:
            return value
    elif isinstance(value, origin or kind):
        return value
    expected = {
        int: "a whole number from 1", float: "a number above 0, such as 1.0e-3 (YAML reads 1e-3 as text)",
        str: "a name", bool: "true or false", list: "a list of at least one", dict: "a mapping of at least one",
    }[origin or kind]  # fmt: skip
    raise UserError(f"{where} is {value!r}: write {expected}.")


def _read_dataclass(kind: type, value: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}: write a mapping with {', '.join(hints)}.")
    _check_names(value, set(hints), where)
    for each in fields(kind):
        if each.default is MISSING and each.name not in value:
            raise UserError(f"{where} has no {each.name!r}: add it.")
    return kind(**{name: _read(hints[name], part, f"{where}.{name}") for name, part in value.items()})


def _check_names(value: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in value:
        if name not in known:
            raise UserError(f"{where} has an unknown field {name!r}: choose among {', '.join(sorted(known))}.")


def _check(plan: SizePlan, where: str) -> None:
    """Refuse a plan whose runs could not be named or would fail."""
    find_size(plan.recipe_size)
    for task, options in plan.tasks.items():
        _check_names(options, TASK_OPTIONS, f"{where}.tasks.{task}")
    for recipe, options in plan.pretraining.items():
        find_architecture(recipe)
        place = f"{where}.pretraining.{recipe}"
        _check_names(options, set(option_fields(GROUPS)) - SET_BY_STUDY, place)
        for name in ("num_texts", "max_steps"):
            _read(int, options.get(name), f"{place}.{name}")
    for recipe, tuning in plan.finetuning.items():
        for candidate in (*tuning.pretrained, *tuning.scratch):
            _check_names(candidate, CANDIDATE_OPTIONS, f"{where}.finetuning.{recipe}")
    used = [*plan.gap.recipes, plan.corpus_size.recipe, plan.overlap.recipe, plan.committee.reference]
    for recipe in (*used, *plan.committee.members):
        for section in ("pretraining", "finetuning"):
            if recipe not in getattr(plan, section):
                raise UserError(f"{where}.{section} has no entry for {recipe!r}, which the plan uses: add one.")
    longer, steps = plan.committee.longer, plan.pretraining[plan.first_member]["max_steps"]
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


def check_data(settings: Iterable[Json], root: str | None) -> None:
    """Read each corpus and task of these settings once: a missing one is a UserError before hours of other runs."""
    corpora: dict[tuple[tuple[str, Any], ...], int] = {}
    tasks: dict[str, Json] = {}
    for each in settings:
        if "corpus" in each and "corpus_config" not in each:  # subsets are made by a run of the study
            options = tuple((name, value) for name, value in sorted(each.items()) if name in CORPUS_OPTIONS)
            corpora[options] = max(corpora.get(options, 0), each.get("corpus_texts") or each["num_texts"])
        tasks |= each.get("tasks", {})
        if "task" in each:
            tasks[each["task"]] = each["task_options"]
    for options, texts in corpora.items():
        load_pretraining_corpus(CorpusOptions(data_root=root, num_texts=texts, **dict(options)), "laptop")
    for name, task_options in tasks.items():
        load_task(name, root=root, **task_options)
