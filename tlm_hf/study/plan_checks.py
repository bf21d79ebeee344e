"""What a plan of the study must have, checked before any of its runs starts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.tasks import load_task
from ..errors import UserError
from ..recipes import find_architecture, find_size
from ..training.finetune import FinetuneArguments
from ..training.pretrain import load_pretraining_corpus
from ..training.pretrain_options import PretrainArguments

if TYPE_CHECKING:
    from .plan_file import SizePlan

ARMS = ("pretrained", "scratch")
CANDIDATE_FIELDS = ("learning_rate", "initializer_range")
COUNT, NUMBER, COUNTS, NAMES, NAME = (
    "a whole number from 1",
    "a number above 0",
    "a list of whole numbers from 1",
    "a list",
    "a name",
)
SECTIONS: dict[str, dict[str, str]] = {
    "tokenizer": {"num_texts": COUNT},
    "gap": {"recipes": NAMES, "pretraining_seeds": COUNT, "finetuning_seeds": COUNT},
    "corpus_size": {"recipe": NAME, "num_texts": COUNTS, "max_steps": COUNT, "pretraining_seeds": COUNT},
    "overlap": {
        "recipe": NAME, "num_texts": COUNT, "corpus_texts": COUNT, "max_steps": COUNT, "pretraining_seeds": COUNT,
    },
    "committee": {"members": "a mapping", "reference": NAME, "counts": COUNTS, "batch_size": COUNTS},
}  # fmt: skip
"""What each section must have."""
LONGER = {"max_steps": COUNT, "members": COUNT}
PRETRAINING = {"num_texts": COUNT, "max_steps": COUNT}
GIVEN = {
    "corpus", "corpus_config", "data_root", "disable_tqdm", "members", "num_threads", "output_dir", "recipe", "seed",
    "size", "tokenizer", "workers",
}  # fmt: skip
"""Options of a pre-training that the study itself sets."""
CORPUS_OPTIONS = ("corpus", "text_column", "corpus_revision", "corpus_unit", "validation_texts", "subset_seed")
FINETUNING = {"num_train_epochs": NUMBER, "pretrained": NAMES, "scratch": NAMES}


def _is(value: Any, wanted: str) -> bool:
    """Whether a value of the plan is what it must be."""
    if wanted in (COUNT, NUMBER):
        kinds = int if wanted == COUNT else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and value > 0
    if wanted == COUNTS:
        return isinstance(value, list) and bool(value) and all(_is(each, COUNT) for each in value)
    if wanted == NAMES:
        return isinstance(value, list)
    return isinstance(value, dict) if wanted == "a mapping" else isinstance(value, str)


def _require(found: Any, wanted: Mapping[str, str], where: str, file: str | Path) -> None:
    if not isinstance(found, dict):
        raise UserError(f"The plan {file} has no mapping under {where}: write its fields there.")
    for name, kind in wanted.items():
        if name not in found:
            raise UserError(f"The plan {file} has no {name!r} under {where}: add it.")
        if not _is(found[name], kind):
            raise UserError(f"The plan {file} has {name} {found[name]!r} under {where}: write {kind}.")


def _known(found: Mapping[str, Any], names: set[str], where: str, file: str | Path) -> None:
    for name in found:
        if name not in names:
            raise UserError(
                f"The plan {file} has an unknown option {name!r} under {where}: choose among "
                f"{', '.join(sorted(names))}."
            )


def check_plan(plan: SizePlan, file: str | Path) -> None:
    """Refuse a plan whose runs could not be named or would fail.

    Raises:
        UserError: one sentence that names the file, the field and what must stand there.
    """
    for section, wanted in SECTIONS.items():
        _require(getattr(plan, section), wanted, repr(section), file)
    members = plan.committee["members"]
    for name, entries in (("gap.recipes", plan.gap["recipes"]), ("committee.members", members), ("tasks", plan.tasks)):
        if not entries:
            raise UserError(f"The plan {file} has nothing under {name!r}: name at least one.")
    _require(members, dict.fromkeys(members, COUNT), "'committee.members'", file)
    _known(plan.committee, {*SECTIONS["committee"], "longer"}, "'committee'", file)
    # What both the task's loading and a fine-tuning take under one name.
    taken = set(inspect.signature(load_task).parameters) & {each.name for each in fields(FinetuneArguments)}
    for task, found in plan.tasks.items():
        _require(found, {}, f"the task {task!r}", file)
        _known(found, taken - {"seed"}, f"the task {task!r}", file)
    for recipe, found in plan.pretraining.items():
        _require(found, PRETRAINING, f"'pretraining' of {recipe}", file)
        _known(found, {each.name for each in fields(PretrainArguments)} - GIVEN, f"'pretraining' of {recipe}", file)
    if (longer := plan.committee.get("longer")) is not None:
        _require(longer, LONGER, "'committee.longer'", file)
        _known(longer, set(LONGER), "'committee.longer'", file)
        steps = plan.pretraining.get(plan.first_member, {}).get("max_steps", 0)
        if longer["max_steps"] <= steps:
            raise UserError(
                f"The plan {file} has {longer['max_steps']} steps under 'committee.longer', not more than the {steps} "
                f"under 'pretraining' of {plan.first_member}: give more, or leave 'longer' out."
            )
    for recipe, found in plan.finetuning.items():
        _require(found, FINETUNING, f"'finetuning' of {recipe}", file)
    find_size(plan.recipe_size)
    for recipe in plan.pretraining:
        find_architecture(recipe)
    single = (plan.corpus_size["recipe"], plan.overlap["recipe"], plan.committee["reference"])
    used = [*plan.gap["recipes"], *single, *plan.committee["members"]]
    for recipe in used:
        for section, entries in (("pretraining", plan.pretraining), ("finetuning", plan.finetuning)):
            if recipe not in entries:
                raise UserError(f"The plan {file} uses {recipe!r}, which has no entry under {section!r}: add one.")
    for recipe, options in plan.finetuning.items():
        for arm in ARMS:
            if not options.get(arm):
                raise UserError(f"The plan {file} has no candidates of {recipe} for the arm {arm!r}: add at least one.")
            for candidate in options[arm]:
                _require(candidate, {}, f"the candidates of {recipe} ({arm})", file)
                if unknown := [name for name in candidate if name not in CANDIDATE_FIELDS]:
                    raise UserError(
                        f"The plan {file} has {unknown[0]!r} among the candidates of {recipe} ({arm}): choose among "
                        f"{', '.join(CANDIDATE_FIELDS)}."
                    )
                for name, value in candidate.items():
                    if not _is(value, NUMBER):
                        raise UserError(
                            f"The plan {file} has {name} {value!r} for {recipe} ({arm}): write a number such as 1.0e-3 "
                            "since YAML reads 1e-3 as text."
                        )
    sizes = plan.corpus_size["num_texts"]
    if sorted(sizes) != sizes or len(set(sizes)) < len(sizes):
        raise UserError(f"The plan {file} has corpus sizes {sizes}: write them in rising order, each once.")
    if plan.overlap["num_texts"] > plan.overlap["corpus_texts"]:
        raise UserError(
            f"The plan {file} chooses subsets of {plan.overlap['num_texts']} texts (overlap.num_texts) among "
            f"{plan.overlap['corpus_texts']} (overlap.corpus_texts): choose fewer, or among more."
        )


def check_data(settings: Iterable[Mapping[str, Any]], root: str | None) -> None:
    """Read each corpus and task of some runs once, so that none of them is missed after hours of other runs.

    Args:
        settings: those of the runs that are to be done (see `plan.StudyRun`).
        root: folder of real text; None for the variable TLM_DATA.

    Raises:
        UserError: a corpus or task is not there, or has fewer texts than a run takes; what subsets need beyond that is
            left to the run that chooses them.
    """
    corpora: dict[tuple[tuple[str, Any], ...], int] = {}
    tasks: dict[str, Mapping[str, Any]] = {}
    for each in settings:
        if "corpus" in each and "corpus_config" not in each:  # those are made by the run that chooses subsets
            chosen = tuple((name, each[name]) for name in CORPUS_OPTIONS if name in each)
            texts = each.get("corpus_texts", each.get("num_texts"))
            corpora[chosen] = max(texts, corpora.get(chosen, 0))
        tasks |= each.get("tasks", {})
        if "task" in each:
            tasks[each["task"]] = each["task_options"]
    for chosen, texts in corpora.items():
        load_pretraining_corpus(PretrainArguments(output_dir="", data_root=root, num_texts=texts, **dict(chosen)))
    for name, options in tasks.items():
        load_task(name, root=root, **options)
