"""Which rows of a task's source come into which split: seeded orders by class, cut by the numbers asked for."""

from collections.abc import Iterator

import datasets
import numpy as np

from ..errors import UserError, listed, shown
from .kinds import MULTI, REGRESSION, SINGLE, labels_of, problem_of, texts_of
from .labels import are_amounts
from .sources import seeded_order
from .tables import SPLITS, Row, TaskSource
from .task_options import TaskArguments

Groups = list[list[Row]]  # the rows of each class, in seeded order
Sizes = dict[str, int | None]  # texts of each class by split; None for no limit (validation and test: their share)


def choose_rows(
    source: TaskSource, arguments: TaskArguments, sizes: Sizes, *, tenth: bool, every_class: bool
) -> dict[str, list[Row]]:
    """Seeded rows of each split; with `train_seed` training rows are another draw from those not held out.

    Validation is a tenth of each class, at most 200, where the source has a test split, or with `tenth`; else 15%.
    What is left out is counted in `source.dropped`. UserError for fewer rows in a class than asked for (with
    `--shortfall take` a note), or, with `every_class`, none in a split.
    """
    name, seed = arguments.task, arguments.task_seed
    if every_class and "train" not in source.rows:
        splits = ", ".join(source.rows)
        raise UserError(f"{name!r} has the splits {splits} but no train split: give a source with one.")
    groups = _cut(source, {split: _by_class(source, split, seed) for split in source.rows}, sizes, tenth)
    if arguments.train_seed is not None:
        groups["train"] = [_shuffled(rows, arguments.train_seed) for rows in groups["train"]]
    for split in ("test", "validation", "train"):  # the order in which they take their rows
        asked, available = sizes[split] or 0, [len(rows) for rows in groups[split]]
        fewest, lacking = min(available), sum(count < asked for count in available)
        label = shown(source.groups[available.index(fewest)])
        note = f"{lacking} of {len(available)} classes have fewer than {asked} {split} texts, {label} {fewest}"
        if lacking and arguments.shortfall == "error":
            remedy = f"ask for at most {fewest} (--{split}-per-label) or fewer of the other splits"
            raise UserError(f"{note} (of {name!r}): {remedy}, or take what there is (--shortfall take).")
        source.notes += [note] if lacking else []
    if every_class:
        _check_classes(source, name, groups)
    chosen = {}
    for split in SPLITS:
        rows = [row for group in groups[split] for row in group[: sizes[split]]]
        order = seeded_order([f"{row.label}\0{row.key}" for row in rows], f"{seed}-{split}")
        chosen[split] = [rows[index] for index in order]
    if source.problem_type == MULTI and chosen["train"]:
        learned = {number for row in chosen["train"] for number in row.label}
        if unknown := [shown(name) for number, name in enumerate(source.names) if number not in learned]:
            source.notes.append(f"no training text has {listed(unknown)}")
    return chosen


def learnable(task: datasets.DatasetDict) -> datasets.Dataset:
    """Rows of training and validation together, for a last fit once all is chosen."""
    return datasets.concatenate_datasets([task["train"], task["validation"]])


def rotate(task: datasets.DatasetDict, count: int) -> Iterator[datasets.DatasetDict]:
    """The task, and `count` - 1 more that in turn hold out other training rows in place of the validation rows.

    As many of each class are held out, and equal texts stay together. Where a part would lack a class, or have a single
    number, it is the task again. Source: cross-validation committees (Parmanto, Munro and Doyle, NeurIPS 1995).
    """
    rows, first = learnable(task), len(task["train"])
    kind, labels = problem_of(task), labels_of(rows)
    groups = labels if kind == SINGLE else np.zeros(len(rows), dtype=int)
    classes = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    sizes = [int((places >= first).sum()) for places in classes]
    numbers: dict[object, int] = {}
    of_text = np.array([numbers.setdefault(text, len(numbers)) for text in texts_of(rows)])
    needed = {SINGLE: len(classes), REGRESSION: 2}.get(kind, 0)
    yield task
    for turn in range(2, count + 1):
        chosen = [np.roll(places, turn * size)[:size] for places, size in zip(classes, sizes, strict=True)]
        out = np.isin(of_text, of_text[np.concatenate(chosen)])
        if needed and min(len(np.unique(labels[out])), len(np.unique(labels[~out]))) < needed:
            yield task
            continue
        splits = {"train": rows.select(np.flatnonzero(~out)), "validation": rows.select(np.flatnonzero(out))}
        yield datasets.DatasetDict(splits | {"test": task["test"]})


def _check_classes(source: TaskSource, name: str, groups: dict[str, Groups]) -> None:
    needed = 6 if "test" in source.rows else 4
    for split, of_split in groups.items():
        lacking = [shown(label) for label, rows in zip(source.groups, of_split, strict=True) if not rows]
        if lacking and are_amounts(source.names):
            few = f"The labels of {name!r} are {len(source.names)} numbers with few texts each"
            raise UserError(f"{few}: learn amounts (--problem-type regression), or set --label-column.")
        if lacking:
            raise UserError(
                f"No {split} text of {name!r} is left for {listed(lacking)}: a class needs at least {needed} different "
                "texts, so give more of them, leave small classes out (--drop-rare-classes N), merge them "
                "(--merge-rare-classes N), set --label-column, or, where a command has --test-per-label and "
                "--validation-per-label, ask for fewer."
            )
        if source.problem_type == REGRESSION and any(len({row.label for row in rows}) < 2 for rows in of_split):
            raise UserError(f"Every number of the {split} split of {name!r} is equal: give more rows.")


def _cut(source: TaskSource, ordered: dict[str, Groups], sizes: Sizes, tenth: bool) -> dict[str, Groups]:
    """Give each split its rows: test first, then validation, then train, none a text that another has."""
    rest: Groups = ordered.get("train", [[] for _ in source.groups])
    test, tenth = ordered.get("test"), tenth or "test" in ordered
    if test is None:
        test, rest = _split(rest, [sizes["test"] or round(0.15 * len(rows)) for rows in rest])
    rest, validation = _without(source, rest, test), ordered.get("validation")
    if validation is None:
        shares = [min(200, round(0.1 * len(rows))) if tenth else round(0.15 / 0.85 * len(rows)) for rows in rest]
        validation, rest = _split(rest, [sizes["validation"] or share for share in shares])
    else:
        validation = _without(source, validation, test)
    return {"train": _without(source, rest, validation), "validation": validation, "test": test}


def _by_class(source: TaskSource, split: str, seed: int) -> Groups:
    """Rows of each class in seeded order; of equal ones the first."""
    grouped: list[dict[str, Row]] = [{} for _ in source.groups]
    for row in source.rows[split]:
        grouped[row.label if source.problem_type == SINGLE else 0].setdefault(row.key, row)
    source.dropped["duplicates"] += len(source.rows[split]) - sum(map(len, grouped))
    return [_shuffled(list(rows.values()), seed) for rows in grouped]


def _shuffled(rows: list[Row], seed: int) -> list[Row]:
    return [rows[index] for index in seeded_order([row.key for row in rows], seed)]


def _split(groups: Groups, counts: list[int]) -> tuple[Groups, Groups]:
    pairs = list(zip(groups, counts, strict=True))
    return [rows[:count] for rows, count in pairs], [rows[count:] for rows, count in pairs]


def _without(source: TaskSource, groups: Groups, others: Groups) -> Groups:
    """Rows of each class whose text is in no class of another split; the others are counted as dropped."""
    used = {row.key for rows in others for row in rows}
    left = [[row for row in rows if row.key not in used] for rows in groups]
    source.dropped["in another split"] += sum(map(len, groups)) - sum(map(len, left))
    return left
