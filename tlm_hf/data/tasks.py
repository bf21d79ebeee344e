"""Classification tasks: `docstrings` (embedded), AG News, DBpedia-14, any table with a text and a label column."""

from dataclasses import dataclass, field
from typing import Any

import datasets

from ..errors import UserError
from .docstrings import load_docstrings_task
from .sources import check_column, data_root, read_table, seeded_order, text_hash

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class KnownTask:
    """A public task: where it lies, its columns and the names of its classes (arXiv 2507.14871 uses all of them)."""

    hub: str
    text_column: str
    labels: tuple[str, ...]


KNOWN = {
    "ag_news": KnownTask("fancyzhx/ag_news", "text", ("World", "Sports", "Business", "Sci/Tech")),
    "dbpedia_14": KnownTask(
        "fancyzhx/dbpedia_14",
        "content",
        (
            "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation",
            "Building", "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork",
        ),
    ),
}  # fmt: skip


@dataclass
class TaskArguments:
    """Options that choose a task; shared by every command that takes one."""

    task: str = field(
        default="docstrings", metadata={"help": "docstrings, ag_news, dbpedia_14, a file or folder, or a Hub data set."}
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the text (default: the task's, or text)."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the label."})
    task_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    task_revision: str | None = field(default=None, metadata={"help": "Revision of a Hub data set."})
    train_per_label: int | None = field(default=None, metadata={"help": "Training texts of each class (default: all)."})
    validation_per_label: int | None = field(default=None, metadata={"help": "Validation texts of each class."})
    test_per_label: int | None = field(default=None, metadata={"help": "Test texts of each class."})
    task_seed: int = field(default=0, metadata={"help": "Seed of the choice of rows."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})


def load_task(
    name: str,
    *,
    train_per_label: int | None = None,
    validation_per_label: int | None = None,
    test_per_label: int | None = None,
    text_column: str | None = None,
    label_column: str = "label",
    config: str | None = None,
    revision: str | None = None,
    root: str | None = None,
    seed: int = 0,
) -> datasets.DatasetDict:
    """Load a task as train, validation and test splits with `text` (str) and `label` (ClassLabel with names).

    Validation rows come out of the training split, so the test split is never used for choosing. Where the source has
    no test split, 15% of each class are held out as test and 15% as validation (where it has one, validation is a tenth
    of each class, at most 200 texts). The choice of rows depends on the
    texts and the seed alone. Rows with an empty text are left out; a text that stands in two splits stays in test only.

    Args:
        name: `docstrings`, `ag_news`, `dbpedia_14`, a file, a folder, or `owner/name` on the Hub.
        train_per_label: texts of each class for training; None for all (the docstrings' default is 200).
        validation_per_label: likewise for validation; None for a tenth of the class's training rows, at most 200.
        test_per_label: likewise for test.
        text_column: column of the text; None for the known task's, or `text`.
        label_column: column of the label: class names, or integers.
        config: configuration of a Hub data set.
        revision: revision of a Hub data set.
        root: data root; None for the variable TLM_DATA.
        seed: chooses the rows.

    Raises:
        UserError: no such task or column, one class only, labels that are neither integers nor names, or fewer rows in
            a class than asked for.
    """
    wanted = {"train": train_per_label, "validation": validation_per_label, "test": test_per_label}
    for split, count in wanted.items():
        if count is not None and count < 1:
            raise UserError(f"--{split}-per-label is {count}: give at least 1.")
    if name == "docstrings":
        given: dict[str, Any] = {f"{split}_per_label": count for split, count in wanted.items() if count is not None}
        return load_docstrings_task(seed=seed, **given)
    known = KNOWN.get(name)
    source = name
    if known is not None:
        folder = data_root(root)
        source = str(folder / name) if folder is not None and (folder / name).is_dir() else known.hub
        if source == known.hub and datasets.config.HF_HUB_OFFLINE:
            raise UserError(
                f"The task {name!r} is not under the data root and HF_HUB_OFFLINE is set: set TLM_DATA or --data-root "
                f"to a folder that holds {name}/*.parquet, or allow the Hub."
            )
    table = read_table(source, config=config, revision=revision)
    column = text_column or (known.text_column if known else "text")
    split_rows, names = _labelled_rows(table, name, column, label_column, known)
    chosen = _choose(split_rows, names, name, (train_per_label, validation_per_label, test_per_label), seed)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {"text": [text for text, _ in rows], "label": [label for _, label in rows]}, features=features
            )
            for split, rows in chosen.items()
        }
    )


def load_task_from(arguments: TaskArguments) -> datasets.DatasetDict:
    """The task that the options choose; raises UserError as `load_task`."""
    return load_task(
        arguments.task,
        train_per_label=arguments.train_per_label,
        validation_per_label=arguments.validation_per_label,
        test_per_label=arguments.test_per_label,
        text_column=arguments.text_column,
        label_column=arguments.label_column,
        config=arguments.task_config,
        revision=arguments.task_revision,
        root=arguments.data_root,
        seed=arguments.task_seed,
    )


def task_hash(task: datasets.DatasetDict) -> str:
    """SHA-256 over every split's labels and texts in order."""
    return text_hash(
        f"{split}\0{row['label']}\0{row['text']}" for split in SPLITS if split in task for row in task[split]
    )


def _labelled_rows(
    table: datasets.DatasetDict, name: str, text_column: str, label_column: str, known: KnownTask | None
) -> tuple[dict[str, list[tuple[str, int]]], list[str]]:
    """(text, class id) rows of the source's own train/validation/test splits, and the class names."""
    wanted = {split: table[split] for split in SPLITS if split in table}
    if "train" not in wanted and wanted:
        raise UserError(f"{name!r} has the splits {', '.join(wanted)} but no train split: give a source with one.")
    if not wanted:
        wanted = {"train": next(iter(table.values()))}
    first = next(iter(wanted.values()))
    check_column(first, text_column, name, "--text-column")
    check_column(first, label_column, name, "--label-column")
    raw = {split: (rows[text_column][:], rows[label_column][:]) for split, rows in wanted.items()}
    values = [value for _, labels in raw.values() for value in labels]
    feature = first.features[label_column]
    if known is not None:
        names: list[str] = list(known.labels)
        ids: dict[Any, int] = {index: index for index in range(len(names))}
    elif isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
        ids = {index: index for index in range(len(names))}
    else:
        names, ids = _name_labels(values, name, label_column)
    present = {value for value in values if value in ids}
    if len(present) < 2:
        raise UserError(f"The task {name!r} has {len(present)} class in {label_column!r}: give at least two classes.")
    rows = {
        split: [
            (text.strip(), ids[label])
            for text, label in zip(texts, labels, strict=True)
            if isinstance(text, str) and text.strip() and label in ids
        ]
        for split, (texts, labels) in raw.items()
    }
    return rows, names


def _name_labels(values: list[Any], name: str, column: str) -> tuple[list[str], dict[Any, int]]:
    """Class names in sorted order for strings, or the integers themselves."""
    kinds = {type(value) for value in values}
    if kinds == {str}:
        names = sorted(set(values))
        return names, {label: index for index, label in enumerate(names)}
    if kinds == {int}:
        numbers = sorted(set(values))
        return [str(number) for number in numbers], {number: index for index, number in enumerate(numbers)}
    # A missing value turns a CSV's integers into floats, so it is the culprit before they are.
    missing = [value for value in values if value is None or value != value]
    odd = [value for value in values if not isinstance(value, str | int) or isinstance(value, bool)]
    culprit = "an empty cell" if missing else repr(odd[0]) if odd else "both"
    raise UserError(
        f"Labels must be integers or names, but column {column!r} of {name!r} holds {culprit}: clean it, or set "
        "--label-column."
    )


def _choose(
    rows: dict[str, list[tuple[str, int]]],
    names: list[str],
    name: str,
    per_label: tuple[int | None, int | None, int | None],
    seed: int,
) -> dict[str, list[tuple[str, int]]]:
    """Balanced, seeded rows of each split, from seeded orders per class."""
    by_class = {split: _by_class(split_rows, len(names)) for split, split_rows in rows.items()}
    test_texts = {text for text, _ in rows.get("test", [])}
    chosen: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for label, label_name in enumerate(names):
        train = [text for text in by_class["train"][label] if text not in test_texts]
        train = [train[index] for index in seeded_order(train, seed)]
        if "test" in by_class:
            test = by_class["test"][label]
            test = [test[index] for index in seeded_order(test, seed)]
        else:
            size = per_label[2] if per_label[2] is not None else round(0.15 * len(train))
            test, train = train[:size], train[size:]
        if "validation" in by_class:
            taken = test_texts.union(test)
            validation = [text for text in by_class["validation"][label] if text not in taken]
            validation = [validation[index] for index in seeded_order(validation, seed)]
            train = [text for text in train if text not in set(validation)]
        else:
            size = min(200, round(0.1 * len(train))) if "test" in by_class else round(0.15 / 0.85 * len(train))
            size = size if per_label[1] is None else per_label[1]
            validation, train = train[:size], train[size:]
        for split, texts, wanted in zip(SPLITS, (train, validation, test), per_label, strict=True):
            if wanted is not None and len(texts) < wanted:
                raise UserError(
                    f"{wanted} {split} texts per label were asked for, but the class {label_name!r} of {name!r} has "
                    f"{len(texts)} left: ask for at most that many."
                )
            if not texts:
                raise UserError(f"The class {label_name!r} of {name!r} has no {split} text: give more rows of it.")
            chosen[split].extend((text, label) for text in texts[:wanted])
    for split, split_rows in chosen.items():
        order = seeded_order([f"{label}\0{text}" for text, label in split_rows], f"{seed}-{split}")
        chosen[split] = [split_rows[index] for index in order]
    return chosen


def _by_class(rows: list[tuple[str, int]], classes: int) -> list[list[str]]:
    """Texts of each class, exact duplicates dropped."""
    grouped: list[dict[str, None]] = [{} for _ in range(classes)]
    for text, label in rows:
        grouped[label][text] = None
    return [list(texts) for texts in grouped]


def class_names(task: datasets.DatasetDict) -> list[str]:
    """Names of the classes, in label order."""
    return list(task["train"].features["label"].names)
