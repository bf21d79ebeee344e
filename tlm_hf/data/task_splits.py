"""Which rows of a task's source come into which split: seeded orders by class, cut by the numbers asked for."""

from dataclasses import dataclass

from ..errors import UserError
from .sources import seeded_order
from .tables import SPLITS, Row, TaskSource

Groups = list[list[Row]]
"""The rows of each class, in seeded order."""


@dataclass(frozen=True)
class Sizes:
    """Texts of each class; None for no limit (validation: for its share).

    `pool` counts training and validation together, in place of `train`. With `tenth` validation is a tenth of the
    training rows even where the source has no test split.
    """

    train: int | None
    validation: int | None
    test: int | None
    pool: int | None = None
    tenth: bool = False


def choose_rows(
    source: TaskSource, name: str, sizes: Sizes, seed: int, shortfall: str
) -> tuple[dict[str, list[Row]], list[str]]:
    """Seeded rows of each split, and notes about classes that have fewer than asked for.

    What is left out is counted in the source's `dropped`.

    Raises:
        UserError: fewer rows in a class than asked for (unless `shortfall` is `take`), or none in a split.
    """
    ordered = {split: _by_class(source, split, seed) for split in source.rows}
    groups, pooled = _cut(source, ordered, sizes)
    asked = {"test": sizes.test, "validation": sizes.validation, "train": sizes.pool or sizes.train}
    notes = []
    for split, count in asked.items():  # in the order in which splits take their rows: the first to lack some is named
        is_pool = split == "train" and sizes.pool is not None
        available = pooled if is_pool else [len(rows) for rows in groups[split]]
        lacking = sum(count is not None and have < count for have in available)
        if not lacking:
            continue
        fewest = min(available)
        label = source.names[available.index(fewest)]
        texts = f"{split} texts{' (validation included)' if is_pool else ''}"
        if shortfall == "error":
            raise UserError(
                f"{count} {texts} of each class were asked for, but {lacking} of {len(source.names)} classes of "
                f"{name!r} have fewer (of {label!r} {fewest} are left): ask for at most {fewest} "
                f"(--{split}-per-label) or fewer of the other splits, or take what there is (--shortfall take)."
            )
        notes.append(
            f"{lacking} of {len(source.names)} classes have fewer than {count} {texts}, "
            f"the fewest {label!r} with {fewest}"
        )
    for split in SPLITS:
        for label, rows in zip(source.names, groups[split], strict=True):
            if not rows:
                raise UserError(
                    f"The class {label!r} of {name!r} has no {split} text left: give more rows of it, or ask for fewer "
                    "texts of the other splits (--test-per-label, --validation-per-label)."
                )
    limits = {"train": sizes.train, "validation": sizes.validation, "test": sizes.test}
    chosen = {}
    for split, limit in limits.items():
        rows = [row for group in groups[split] for row in group[:limit]]
        order = seeded_order([f"{row.label}\0{row.key}" for row in rows], f"{seed}-{split}")
        chosen[split] = [rows[index] for index in order]
    return chosen, notes


def _cut(source: TaskSource, ordered: dict[str, Groups], sizes: Sizes) -> tuple[dict[str, Groups], list[int]]:
    """Give each split its rows: test first, then validation, then train, none a text that another has.

    Also returns the rows of each class that training and validation may share.
    """
    rest = ordered["train"]
    if "test" in ordered:
        test = ordered["test"]
    else:
        test, rest = _split(rest, [round(0.15 * len(rows)) if sizes.test is None else sizes.test for rows in rest])
    rest = _without(source, rest, test)
    pooled = [len(rows) for rows in rest]
    rest = [rows[: sizes.pool] for rows in rest]
    if "validation" in ordered:
        validation = _without(source, ordered["validation"], test)
    else:
        if sizes.validation is not None:
            counts = [sizes.validation] * len(rest)
        elif "test" in ordered or sizes.tenth:
            counts = [min(200, round(0.1 * len(rows))) for rows in rest]
        else:
            counts = [round(0.15 / 0.85 * len(rows)) for rows in rest]
        validation, rest = _split(rest, counts)
    train = _without(source, rest, validation)
    return {"train": train, "validation": validation, "test": test}, pooled


def _by_class(source: TaskSource, split: str, seed: int) -> Groups:
    """Rows of each class in seeded order; of equal ones the first."""
    grouped: list[dict[str, Row]] = [{} for _ in source.names]
    for row in source.rows[split]:
        grouped[row.label].setdefault(row.key, row)
    groups = [list(rows.values()) for rows in grouped]
    source.dropped["duplicates"] += len(source.rows[split]) - sum(map(len, groups))
    return [[rows[index] for index in seeded_order([row.key for row in rows], seed)] for rows in groups]


def _split(groups: Groups, counts: list[int]) -> tuple[Groups, Groups]:
    """The first rows of each class, and the others."""
    pairs = list(zip(groups, counts, strict=True))
    return [rows[:count] for rows, count in pairs], [rows[count:] for rows, count in pairs]


def _without(source: TaskSource, groups: Groups, others: Groups) -> Groups:
    """Rows of each class whose text is in no class of another split; the others are counted as dropped."""
    used = {row.key for rows in others for row in rows}
    left = [[row for row in rows if row.key not in used] for rows in groups]
    source.dropped["in another split"] += sum(map(len, groups)) - sum(map(len, left))
    return left
