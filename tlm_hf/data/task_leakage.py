"""Leakage inside a task: what leaks gives way to other texts of its class, so that the classes stay equal."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from ..errors import UserError
from .leakage import find_leakage
from .sources import data_root, read_table, seeded_order
from .subsets import describe_split, facts_of
from .tables import KNOWN
from .tasks import TaskArguments, class_names, load_task_from

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pool:
    """All rows that training and validation texts may be taken from.

    Attributes:
        rows: with the columns of the task.
        labels: (rows,) int64, their classes.
        own: (rows,) bool, the row is of the source's own validation split; all False where it has none, and validation
            comes out of the training rows.
        order: (rows,) int64, the rows in the order in which the task takes those of a class.
        keys: what the task orders rows by; None where it leaves them in `order`.
    """

    rows: datasets.Dataset
    labels: np.ndarray
    own: np.ndarray
    order: np.ndarray
    keys: list[str] | None


class _Shortage(NamedTuple):
    """A class that has fewer texts in a split than it should have."""

    split: str
    name: str
    wanted: int
    left: int


def leaking_rows(texts: Any, held_out: Iterable[datasets.Dataset]) -> np.ndarray:
    """(rows,) bool: the text has an exact or near duplicate in one of the splits.

    Args:
        texts: a list, or a column of a `datasets.Dataset`.
        held_out: splits with the column `text`.
    """
    leaks = np.zeros(len(texts), dtype=bool)
    for split in held_out:
        leaks |= find_leakage(texts, split["text"]).training.leaks
    return leaks


def replace_leaking(
    arguments: TaskArguments, task: datasets.DatasetDict, foreign: list[datasets.Dataset]
) -> datasets.DatasetDict:
    """The task as `load_task` would choose it from a source without the texts that leak.

    No validation text leaks into the test split or into the `foreign` splits, no training text into these or into
    validation. The test split stays, and so do all rows where nothing leaks; else other texts of the class come in, in
    the seeded order, so that each class has as many texts as before (all that are left, where all were asked for).

    Args:
        arguments: what chose the task.
        task: what `load_task_from` made of them: `train`, `validation` and `test`, with `text`, `id` and `label`.
        foreign: further held-out splits, such as other tasks' tests.

    Returns:
        The three splits. Train and validation say in `leaking_rows_dropped` how many rows were passed over.

    Raises:
        UserError: a class has fewer texts left than were asked for and `shortfall` is not `take`, or none.
    """
    held_out = [task["test"], *foreign]
    clean = not leaking_rows(task["validation"]["text"], held_out).any()
    if clean and not leaking_rows(task["train"]["text"], [*held_out, task["validation"]]).any():
        found = {split: {**facts_of(task[split]), "leaking_rows_dropped": 0} for split in ("train", "validation")}
        kept = {split: describe_split(task[split], **facts) for split, facts in found.items()}
        return datasets.DatasetDict(**kept, test=task["test"])
    pool = _load_pool(arguments, task, {})
    chosen, dropped = _choose(pool, task, held_out)
    short = _shortages(pool, task, chosen)
    growing = ["validation", "train"] if arguments.task == "docstrings" else []
    more = dict.fromkeys(growing, 0)
    while growing:  # this task gives out no more than it is asked for
        lacking = max((entry.wanted - entry.left for entry in short if entry.split == growing[0]), default=0)
        try:
            if lacking:
                pool = _load_pool(arguments, task, {**more, growing[0]: more[growing[0]] + lacking})
        except UserError:  # a class has no more
            lacking = 0
        if not lacking:
            del growing[0]
            continue
        more[growing[0]] += lacking
        chosen, dropped = _choose(pool, task, held_out)
        short = _shortages(pool, task, chosen)
    _say_shortages(arguments, task, short)
    result = {"test": task["test"]}
    for split, rows in chosen.items():
        mixed = _mix(pool, rows, f"{arguments.task_seed}-{split}")
        counts = np.bincount(pool.labels[mixed], minlength=len(class_names(task))).tolist()
        facts = facts_of(task[split])
        facts |= {
            "per_label": dict(zip(class_names(task), counts, strict=True)),
            "leaking_rows_dropped": dropped[split],
        }
        result[split] = describe_split(pool.rows.select(mixed), **facts)
    return datasets.DatasetDict({split: result[split] for split in task})


def task_place(arguments: TaskArguments) -> str:
    """Path or Hub name that a task is read from (`docstrings` for itself)."""
    known = KNOWN.get(arguments.task)
    if known is None:
        return arguments.task
    if arguments.task_path is not None:
        return arguments.task_path
    root = data_root(arguments.data_root)
    if root is not None and (root / arguments.task).is_dir():
        return str(root / arguments.task)
    return known.hub or arguments.task


def _load_pool(arguments: TaskArguments, task: datasets.DatasetDict, more: dict[str, int]) -> _Pool:
    """The rows that the task was chosen from, but for its test split; of docstrings so many `more` of each class."""
    asked = facts_of(task["train"])["asked_per_label"]
    keys: list[str] | None = None
    if arguments.task == "docstrings":
        counts = {f"{split}_per_label": asked[split] + more.get(split, 0) for split in ("train", "validation")}
        whole = _load_quietly(replace(arguments, test_per_label=asked["test"], **counts))
        has_validation = True
    else:
        has_validation = _has_validation(arguments)
        wanted = replace(
            arguments,
            train_per_label=None,
            validation_per_label=None if has_validation else 1,  # it joins the training rows again
            test_per_label=asked["test"],
            all_rows=True,
            shortfall="take",
        )
        whole = plain = _load_quietly(wanted)
        if arguments.title_column is not None or arguments.entity_markers != "none":
            # Rows are chosen by their texts without these, and stand in the same places.
            plain = _load_quietly(replace(wanted, title_column=None, entity_markers="none"))
        keys = [*plain["validation"]["text"][:], *plain["train"]["text"][:]]
    rows = datasets.concatenate_datasets([whole["validation"], whole["train"]])
    rows = rows.select_columns(task["train"].column_names)
    own = np.arange(len(rows)) < len(whole["validation"]) if has_validation else np.zeros(len(rows), dtype=bool)
    order = np.arange(len(rows)) if keys is None else np.array(seeded_order(keys, arguments.task_seed), dtype=np.int64)
    return _Pool(rows, np.array(rows["label"][:], dtype=np.int64), own, order, keys)


def _load_quietly(arguments: TaskArguments) -> datasets.DatasetDict:
    """`load_task_from` without its notes, which were said when the task was loaded first."""
    notes = logging.getLogger(load_task_from.__module__)
    was_disabled, notes.disabled = notes.disabled, True
    try:
        return load_task_from(arguments)
    finally:
        notes.disabled = was_disabled


def _has_validation(arguments: TaskArguments) -> bool:
    """Whether a task's source has a validation split of its own."""
    if arguments.task == "fewrel":
        return False
    place, known = task_place(arguments), KNOWN.get(arguments.task)
    revision = arguments.task_revision
    if known is not None:
        revision = None if Path(place).expanduser().exists() else revision or known.revision
    return "validation" in read_table(place, config=arguments.task_config, revision=revision)


def _choose(
    pool: _Pool, task: datasets.DatasetDict, held_out: list[datasets.Dataset]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Row numbers of validation and train, and how many rows that leak were passed over for each."""
    by_class = [pool.order[pool.labels[pool.order] == label] for label in range(len(class_names(task)))]
    leaks = leaking_rows(pool.rows["text"], held_out)
    if pool.own.any():
        lines = [line[pool.own[line]] for line in by_class]
        taken = _take(lines, leaks, _wanted(task, "validation"))
        rest = [line[~pool.own[line]] for line in by_class]
    else:
        taken = _take(by_class, leaks, _wanted(task, "validation"))
        rest = [line[end:] for line, end in zip(by_class, taken[2], strict=True)]
    validation = taken[0]
    candidates = np.concatenate(rest)
    leaks[candidates] |= leaking_rows(pool.rows.select(candidates)["text"], [pool.rows.select(validation)])
    train, passed, _ = _take(rest, leaks, _wanted(task, "train"))
    return {"train": train, "validation": validation}, {"train": passed, "validation": taken[1]}


def _wanted(task: datasets.DatasetDict, split: str) -> list[int | None]:
    """Texts of each class that a split is to have; None for no limit."""
    facts = facts_of(task[split])
    if split == "train" and facts["asked_per_label"]["train"] is None:
        return [None] * len(class_names(task))
    return [facts["per_label"][name] for name in class_names(task)]


def _take(lines: list[np.ndarray], leaks: np.ndarray, counts: list[int | None]) -> tuple[np.ndarray, int, list[int]]:
    """The first `counts` rows of each line that do not leak, how many that do were passed over, and where it ended."""
    taken, passed, ends = [], 0, []
    for line, count in zip(lines, counts, strict=True):
        good = np.flatnonzero(~leaks[line])
        end = len(line)
        if count is not None and len(good) >= count:
            good = good[:count]
            end = int(good[-1]) + 1 if count else 0
        taken.append(line[good])
        passed += int(leaks[line[:end]].sum())
        ends.append(end)
    return np.concatenate(taken), passed, ends


def _mix(pool: _Pool, rows: np.ndarray, seed: str) -> np.ndarray:
    """The rows of a split in the order in which the task gives them out."""
    if pool.keys is None:
        return np.sort(rows)
    return rows[seeded_order([f"{pool.labels[row]}\0{pool.keys[row]}" for row in rows], seed)]


def _shortages(pool: _Pool, task: datasets.DatasetDict, chosen: dict[str, np.ndarray]) -> list[_Shortage]:
    """The classes that have too few texts; one is always too few."""
    short = []
    names = class_names(task)
    for split, rows in chosen.items():
        counts = np.bincount(pool.labels[rows], minlength=len(names)).tolist()
        wanted = [max(1, count or 0) for count in _wanted(task, split)]
        short += [_Shortage(split, *entry) for entry in zip(names, wanted, counts, strict=True) if entry[2] < entry[1]]
    return short


def _say_shortages(arguments: TaskArguments, task: datasets.DatasetDict, short: list[_Shortage]) -> None:
    """Refuse classes with too few texts or none; where they may have fewer, say in a note which has the fewest."""
    facts = facts_of(task["train"])
    for split in ("validation", "train"):
        lacking = [entry for entry in short if entry.split == split]
        if not lacking:
            continue
        _, name, wanted, left = min(lacking, key=lambda entry: entry.left)
        if not left:
            raise UserError(
                f"The class {name!r} of {arguments.task!r} has no {split} text left without those that leak into "
                "held-out texts (--drop-leakage): give more texts of it."
            )
        if facts["asked_per_label"][split] is not None and arguments.shortfall == "error":
            remedy = f"--{split}-per-label {left}"
            if split == "train" and facts.get("validation_within_train"):  # then both are asked for by one number
                remedy += f" --validation-per-label {max(facts_of(task['validation'])['per_label'].values())}"
            raise UserError(
                f"Without the texts that leak into held-out ones the class {name!r} of {arguments.task!r} has {left} "
                f"{split} texts for {wanted}: give {remedy}, or --shortfall take."
            )
        logger.warning(
            "Note: %s: without leakage %s of %s classes have fewer than %s %s texts, the fewest %r with %s.",
            arguments.task, len(lacking), len(class_names(task)), wanted, split, name, left,
        )  # fmt: skip
