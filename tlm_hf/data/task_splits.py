"""Which rows of a task's source stand in which split: seeded orders by class, cut by the numbers that are asked for."""

from typing import NamedTuple

from ..errors import UserError
from .sources import seeded_order
from .tables import SPLITS, Row, TaskSource


class Sizes(NamedTuple):
    """Texts of each class; None for no limit (validation: for its share). `pool`: of training and validation in all."""

    train: int | None
    validation: int | None
    test: int | None
    pool: int | None = None


class _Cut(NamedTuple):
    """Rows by split and class, before a split is cut to its number.

    Args:
        groups: the rows of each class that a split may have.
        pooled: rows of each class that train and validation may share.
        repeated: rows that were left out since their text stands in another split.
    """

    groups: dict[str, list[list[Row]]]
    pooled: list[int]
    repeated: int


def choose_rows(
    source: TaskSource, name: str, sizes: Sizes, seed: int, shortfall: str, tenth: bool
) -> tuple[dict[str, list[Row]], list[str]]:
    """Seeded rows of each split, from seeded orders by class, and what is to be said about classes that lack some.

    Args:
        source: the rows; what is left out is counted in its `dropped`.
        name: what to call it in errors.
        sizes: how many rows of each class are wanted.
        seed: chooses the rows.
        shortfall: `error` or `take`, see `tasks.load_task`.
        tenth: validation is a tenth of the training rows even where the source has no test split.

    Raises:
        UserError: fewer rows in a class than asked for, or a class without any in a split.
    """
    ordered = {split: [_ordered(rows, seed) for rows in _by_class(source, split)] for split in source.rows}
    cut = _cut(ordered, sizes, tenth)
    source.dropped["in another split"] += cut.repeated
    notes = []
    for split in reversed(SPLITS):  # in the order in which they take their rows, so that the first to lack is named
        lacking = _short(cut, sizes, split)
        if not lacking:
            continue
        count, label, left = min(lacking, key=lambda entry: entry[2])
        within = " (validation included)" if split == "train" and sizes.pool is not None else ""
        if shortfall == "error":
            others = f" ({len(lacking)} of {len(source.names)} classes have fewer)" if len(lacking) > 1 else ""
            most = _most(ordered, sizes, tenth, split, left)
            less = f"at most {most} (--{split}-per-label)" if most else "fewer of every split"
            raise UserError(
                f"{count} {split} texts per label{within} were asked for, but the class {source.names[label]!r} of "
                f"{name!r} has {left} left{others}: ask for {less}, or --shortfall take."
            )
        notes.append(
            f"{len(lacking)} of {len(source.names)} classes have fewer than {count} {split} texts{within}, the fewest "
            f"{source.names[label]!r} with {left}"
        )
    empty = _empty(cut)
    if empty:
        split, label = empty
        raise UserError(
            f"The class {source.names[label]!r} of {name!r} has no {split} text"
            f"{_remedy(ordered, cut, sizes, tenth, split, label, exact=shortfall == 'error')}."
        )
    chosen = {}
    for split, size in zip(SPLITS, sizes[:3], strict=True):
        rows = [row for group in cut.groups[split] for row in group[:size]]
        order = seeded_order([f"{row.label}\0{row.key}" for row in rows], f"{seed}-{split}")
        chosen[split] = [rows[index] for index in order]
    return chosen, notes


def _cut(ordered: dict[str, list[list[Row]]], sizes: Sizes, tenth: bool) -> _Cut:
    """Give each split its rows: test first, then validation, then train, none a text that another has."""
    own_test, own_validation = "test" in ordered, "validation" in ordered
    rest, repeated = ordered["train"], 0
    if own_test:
        test = ordered["test"]
    else:
        cuts = [round(0.15 * len(rows)) if sizes.test is None else sizes.test for rows in rest]
        test = [rows[:cut] for rows, cut in zip(rest, cuts, strict=True)]
        rest = [rows[cut:] for rows, cut in zip(rest, cuts, strict=True)]
    rest, twice = _without(rest, test)
    repeated += twice
    pooled = [len(rows) for rows in rest]
    rest = [rows[: sizes.pool] for rows in rest]
    if own_validation:
        validation, twice = _without(ordered["validation"], test)
        repeated += twice
    else:
        shares = [
            min(200, round(0.1 * len(rows))) if own_test or tenth else round(0.15 / 0.85 * len(rows)) for rows in rest
        ]
        cuts = shares if sizes.validation is None else [sizes.validation for _ in rest]
        validation = [rows[:cut] for rows, cut in zip(rest, cuts, strict=True)]
        rest = [rows[cut:] for rows, cut in zip(rest, cuts, strict=True)]
    train, twice = _without(rest, validation)
    return _Cut({"train": train, "validation": validation, "test": test}, pooled, repeated + twice)


def _short(cut: _Cut, sizes: Sizes, split: str) -> list[tuple[int, int, int]]:
    """Classes with fewer rows than asked for: the number asked for, the label, the rows there are."""
    pooled = split == "train" and sizes.pool is not None
    count = sizes.pool if pooled else sizes[SPLITS.index(split)]
    found = cut.pooled if pooled else [len(rows) for rows in cut.groups[split]]
    return [(count, label, left) for label, left in enumerate(found) if count is not None and left < count]


def _empty(cut: _Cut) -> tuple[str, int] | None:
    """The first split and label without rows."""
    for split in SPLITS:
        for label, rows in enumerate(cut.groups[split]):
            if not rows:
                return split, label
    return None


def _remedy(
    ordered: dict[str, list[list[Row]]], cut: _Cut, sizes: Sizes, tenth: bool, split: str, label: int, exact: bool
) -> str:
    """Which number to lower so that the class has rows of the split; none where no other split took what it lacks."""
    takers = {"train": ("test", "validation"), "validation": ("test",), "test": ()}[split]
    taken = {
        other: len(cut.groups[other][label])
        for other in takers
        if other not in ordered and sizes[SPLITS.index(other)] is not None and cut.groups[other][label]
    }
    if not taken:
        return ": give more rows of it"
    most = max(taken, key=lambda other: taken[other])
    number = _most(ordered, sizes, tenth, most, taken[most], exact)
    flags = " and ".join(f"--{other}-per-label" for other in taken)
    less = f"at most {number} (--{most}-per-label)" if number else f"fewer ({flags})"
    went = " and ".join(f"{count} went to {other}" for other, count in taken.items())
    return f" left, since {went}: ask for {less}, or give more rows of it"


def _most(
    ordered: dict[str, list[list[Row]]], sizes: Sizes, tenth: bool, split: str, limit: int, exact: bool = True
) -> int:
    """The largest number up to `limit` of texts of a split with which no class lacks any; 0 where there is none.

    Without `exact` a class may have fewer rows than asked for, but no split may be without any.
    """

    def fits(number: int) -> bool:
        given = sizes._replace(**{split: number, "pool": None if split == "train" else sizes.pool})
        cut = _cut(ordered, given, tenth)
        return not _empty(cut) and not (exact and any(_short(cut, given, other) for other in SPLITS))

    fitting, failing = 0, limit + 1
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


def _by_class(source: TaskSource, split: str) -> list[list[Row]]:
    """Rows of each class, of equal ones the first."""
    grouped: list[dict[str, Row]] = [{} for _ in source.names]
    for row in source.rows[split]:
        grouped[row.label].setdefault(row.key, row)
    groups = [list(rows.values()) for rows in grouped]
    source.dropped["duplicates"] += len(source.rows[split]) - sum(map(len, groups))
    return groups


def _ordered(rows: list[Row], seed: int) -> list[Row]:
    return [rows[index] for index in seeded_order([row.key for row in rows], seed)]


def _without(groups: list[list[Row]], others: list[list[Row]]) -> tuple[list[list[Row]], int]:
    """Rows of each class whose text stands in no class of another split, and how many were left out."""
    taken = {row.key for rows in others for row in rows}
    left = [[row for row in rows if row.key not in taken] for rows in groups]
    return left, sum(map(len, groups)) - sum(map(len, left))
