"""The study's plan as it is written: one declarative file (`plan.yaml`), of which each size is read and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from .plan_checks import check_plan

PLAN_FILE = Path(__file__).with_name("plan.yaml")


@dataclass(frozen=True)
class SizePlan:
    """One size of the study, as `plan.yaml` has it (the fields are explained there)."""

    recipe_size: str
    corpus: str
    tokenizer: dict[str, Any]
    pretraining: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]
    finetuning: dict[str, dict[str, Any]]
    gap: dict[str, Any]
    corpus_size: dict[str, Any]
    overlap: dict[str, Any]
    committee: dict[str, Any]
    sentence_encoder: bool = False
    core_multiply_adds_per_second: float = 5e10

    @property
    def first_member(self) -> str:
        """Recipe of the plain committees, which others are held against."""
        return next(iter(self.committee["members"]))

    @property
    def longer(self) -> dict[str, int]:
        """`max_steps` and `members` of the committee of the first recipe with more steps; empty where there is none."""
        return self.committee.get("longer") or {}

    def gap_models(self) -> dict[str, str]:
        """Models of finding a with their recipes: those of the plan, and one of them again with more steps."""
        models = {recipe: recipe for recipe in self.gap["recipes"]}
        return models | ({self.longer_name: self.first_member} if self.longer and self.first_member in models else {})

    @property
    def longer_name(self) -> str:
        """`bert-1 of 24,000 steps`."""
        return f"{self.first_member} of {self.longer['max_steps']:,} steps" if self.longer else ""


def read_plan(size: str, file: str | Path = PLAN_FILE) -> SizePlan:
    """The plan of one size.

    Raises:
        UserError: no such file or size, or a field that is unknown, missing or of the wrong type (named with its line).
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"The plan {file} cannot be read ({error.strerror}): name another --plan.") from error
    try:
        sizes = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"The plan {file} is no YAML ({' '.join(str(error).split())}): mend that line.") from error
    if not isinstance(sizes, dict) or size not in sizes:
        known = ", ".join(sizes) if isinstance(sizes, dict) else "none"
        raise UserError(f"The plan {file} has no size {size!r}: choose one of {known}.")
    found = sizes[size]
    if not isinstance(found, dict):
        raise UserError(f"The plan {file} has no fields for the size {size!r}: see {PLAN_FILE.name}.")
    fields = SizePlan.__dataclass_fields__
    where = _lines(text, size)
    for name in found:
        if name not in fields:
            raise UserError(
                f"The plan {file} has an unknown field {name!r} in line {where[name]}: see {PLAN_FILE.name}."
            )
    for name, wanted in fields.items():
        if name not in found and name not in ("sentence_encoder", "core_multiply_adds_per_second"):
            raise UserError(f"The plan {file} has no field {name!r} for the size {size!r}: add it.")
        is_mapping = "dict" in str(wanted.type)
        if name in found and is_mapping and not isinstance(found[name], dict):
            raise UserError(f"The plan {file} has no mapping for {name!r} in line {where[name]}: see {PLAN_FILE.name}.")
    plan = SizePlan(**found)
    check_plan(plan, file)
    return plan


def _lines(text: str, size: str) -> dict[str, int]:
    """Line of each field of a size, from 1."""
    node = yaml.compose(text)
    for key, value in node.value if node is not None else ():
        if key.value == size:
            return {name.value: name.start_mark.line + 1 for name, _ in value.value}
    return {}
