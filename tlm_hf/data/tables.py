"""Tables of texts and labels: their columns and splits, their usable rows, and what is left out and counted."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datasets

from ..errors import UserError, listed
from .kinds import SINGLE
from .sources import ID, OTHER_CLASSES, TEXT_TYPES, Source, check_column, class_names_in, split_of

logger = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
OTHER = "other"  # the class that rare classes are merged into


class Row(NamedTuple):
    """A usable row: `id` is its place in the source, `key` the text without markers or masks, which it is chosen by."""

    text: str
    label: Any
    id: str
    key: str
    text_pair: str | None = None


@dataclass
class TaskSource:
    """What was read of a source: rows by split, names of the classes, rows left out by reason, notes to say."""

    rows: dict[str, list[Row]]
    names: list[str]
    dropped: Counter[str] = field(default_factory=Counter)
    two_labels: int = 0
    notes: list[str] = field(default_factory=list)
    problem_type: str = SINGLE

    @property
    def groups(self) -> list[str]:
        """What splits take their shares of: the classes, or all rows together where a text has not just one."""
        return self.names if self.problem_type == SINGLE else ["any"]


def find_text(features: Mapping[str, Any], *others: str | None) -> str:
    """The column of texts where none was named: `text`, or the only one of strings but for `others`, which is said."""
    strings = [name for name, each in features.items() if getattr(each, "dtype", "") in TEXT_TYPES]
    strings = [name for name in strings if name not in (*others, ID)]
    if "text" in features or len(strings) != 1:
        return "text"
    logger.info("The texts are those of the column %r.", strings[0])
    return strings[0]


@dataclass(frozen=True)
class Table:
    """A source with its name for errors, its columns of text and label, and its own splits, else its first as train."""

    source: Source
    name: str
    text: str
    label: str
    pair: str | None
    label_feature: Any  # type of the column of labels

    @classmethod
    def open(cls, source: Source, name: str, text: str | None, label: str, pair: str | None = None) -> "Table":
        """Where none is given, the columns are `text` or the only one of strings, and the only ClassLabel."""
        features = next(iter(source.splits.values())).features
        classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        if label == "label" and label not in features and len(classes) == 1:
            label = classes[0]
        text = text or find_text(features, label, pair)
        own: dict[str, str] = {}
        for each in sorted(source.splits, key=lambda each: each not in SPLITS):  # `validation` comes before `dev`
            if split := split_of(each):
                own.setdefault(split, each)
        if not own or (len(source.splits) == 1 and "test" not in own):
            own = {"train": next(iter(source.splits))}
        if unread := [each for each in source.splits if each not in own.values()]:
            logger.warning("Note: splits of %s that are not read: %s.", name, listed(unread))
        splits = {split: source.splits[own[split]] for split in SPLITS if split in own}
        source = Source(datasets.DatasetDict(splits), {split: source.files.get(own[split], ()) for split in splits})
        for split, rows in splits.items():
            place = name if len(splits) == 1 else f"{name}, {split}"
            check_column(rows, text, place, "--text-column")
            check_column(rows, label, place, "--label-column")
            check_column(rows, pair or text, place, "--text-pair-column")
        kinds = {split: rows.features[label] for split, rows in splits.items()}
        if len({names for each in kinds.values() if (names := class_names_in(each)) is not None}) > 1:
            raise UserError(f"The splits of {name!r} {OTHER_CLASSES.format(label)}")
        return cls(source, name, text, label, pair, next(iter(kinds.values())))


def without_rare_classes(source: TaskSource, drop: int, merge: int) -> None:
    """Leave out classes of fewer texts than `drop`, make those of fewer than `merge` one; UserError below two."""
    counts, labels = Counter(row.label for rows in source.rows.values() for row in rows), range(len(source.names))
    large = [label for label in labels if counts[label] >= max(drop, merge)]
    merged = [label for label in labels if drop <= counts[label] < merge]
    names = [source.names[label] for label in large]
    names += [OTHER] if merged and OTHER not in names else []
    if len(names) < 2:
        raise UserError("Fewer than two classes are left: give smaller --drop-rare-classes or --merge-rare-classes.")
    numbers = {label: number for number, label in enumerate(large)} | {label: names.index(OTHER) for label in merged}
    for split, rows in source.rows.items():
        source.rows[split] = [row._replace(label=numbers[row.label]) for row in rows if row.label in numbers]
        source.dropped["rare class"] += len(rows) - len(source.rows[split])
    for verb, classes in (("left out", set(labels) - set(numbers)), (f"merged into {OTHER!r}", merged)):
        if classes:
            rare = listed((source.names[label] for label in sorted(classes)), 80)
            source.notes.append(f"{len(classes)} rare classes are {verb} ({rare})")
    source.names = names
