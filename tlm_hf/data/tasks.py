"""Classification tasks: `docstrings` (embedded), AG News, DBpedia-14, FewRel, any table with a text and a label column.

Each is a `DatasetDict` of train, validation and test, with the facts that reproduce it (`sources.facts_of`)::

    task = load_task("fewrel", root="data", train_per_label=150, test_per_label=30)
    facts_of(task["train"])     # source, revision, seed, counts by class, rows left out by reason
"""

import logging
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets

from ..errors import UserError, check_range
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .docstrings import TASK_LIBRARIES, fingerprint, load_docstrings_task
from .fewrel import MARKINGS, read_fewrel
from .leakage import drop_leaking
from .sources import ID, data_root, describe_split, text_hash
from .tables import SPLITS, Columns, Row, TaskSource, find_columns, open_table, read_rows
from .task_options import TEXT_OPTIONS, TaskArguments
from .task_splits import Sizes, choose_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownTask:
    """A task of the paper: its place and pinned commit on the Hub, its classes in order, the paper's texts of each.

    With `validation_within_train` the source has no more than these, so validation comes out of `train_per_label`.
    """

    hub: str | None
    revision: str | None
    text_column: str
    labels: tuple[str, ...]
    train_per_label: int
    test_per_label: int
    validation_within_train: bool = False


DBPEDIA_CLASSES = (
    "Company EducationalInstitution Artist Athlete OfficeHolder MeanOfTransportation Building NaturalPlace Village "
    "Animal Plant Album Film WrittenWork"
)
KNOWN = {
    "ag_news": KnownTask(
        hub="fancyzhx/ag_news",
        revision="eb185aade064a813bc0b7f42de02595523103ca4",
        text_column="text",
        labels=("World", "Sports", "Business", "Sci/Tech"),
        train_per_label=1000,
        test_per_label=1000,
    ),
    "dbpedia_14": KnownTask(
        hub="fancyzhx/dbpedia_14",
        revision="9abd46cf7fc8b4c64290f26993c540b92aa145ac",
        text_column="content",
        labels=tuple(DBPEDIA_CLASSES.split()),
        train_per_label=100,
        test_per_label=100,
    ),
    "fewrel": KnownTask(None, None, "tokens", (), 630, 70, validation_within_train=True),
}


@dataclass(frozen=True)
class TaskOptions:
    """What chooses the rows of a task: the options of `TaskArguments` (`FLAGS` has those with another name there).

    `task` may also be a `Dataset` or `DatasetDict`: where it lacks the columns, its only column of strings and its only
    ClassLabel are read. `drop_leakage` leaves out training and validation texts that repeat held-out ones.
    """

    task: str | datasets.Dataset | datasets.DatasetDict
    train_per_label: int | None = None
    validation_per_label: int | None = None
    test_per_label: int | None = None
    text_column: str | None = None
    label_column: str = "label"
    title_column: str | None = None
    entity_markers: str = "none"
    path: str | None = None
    config: str | None = None
    revision: str | None = None
    root: str | None = None
    seed: int = 0
    all_rows: bool = False
    shortfall: str = "error"
    drop_leakage: bool = False

    @property
    def name(self) -> str:
        """The task's name in messages and facts."""
        return self.task if isinstance(self.task, str) else "the data set"

    def check(self) -> None:
        """Raise UserError for values that no task takes, and options that this task has no use for."""
        check_range(self, 1, float("inf"), "train_per_label", "validation_per_label", "test_per_label")
        if self.shortfall not in ("error", "take"):
            raise UserError(f"--shortfall is {self.shortfall!r}: give error or take.")
        if self.entity_markers not in MARKINGS:
            raise UserError(f"--entity-markers is {self.entity_markers!r}: give one of {', '.join(MARKINGS)}.")
        unused = set(UNUSED.get(self.name, ()))
        if self.name not in KNOWN:
            unused.add("path")
        if self.name != "fewrel":
            unused.add("entity_markers")
        if not isinstance(self.task, str):
            unused |= {"config", "revision"}
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in unused and value != option.default:
                flag = f"--{FLAGS.get(option.name, option.name).replace('_', '-')}"
                raise UserError(f"The task {self.name!r} has no use for {flag} {value}: leave it out.")


UNUSED = {
    "docstrings": ("text_column", "title_column", "config", "revision", "all_rows"),
    "fewrel": ("text_column", "title_column", "revision"),
}
FLAGS = {name: f"task_{name}" for name in ("path", "config", "revision", "seed")} | {"root": "data_root"}
"""Options with another name in a command."""


def load_task(task: str | Path | datasets.Dataset | datasets.DatasetDict, **options: Any) -> datasets.DatasetDict:
    """Load a task as train, validation and test splits with `text`, `label` (ClassLabel with names) and `id`.

    Validation rows come out of the training split: a tenth of each class, at most 200. Where the source has no test
    split, 15% of each class are held out as test and 15% as validation. Rows depend on the texts and the seed alone;
    fewer training rows with the same seed are a subset of more. Rows without a text or a label are left out, and rows
    whose text is in another split: test comes before validation before train. A text under two labels is left out of
    FewRel; in a table it stays and is counted. `facts_of` a split says its source, revision, seed, numbers by class and
    rows left out by reason.

    Args:
        task: its name, path or Hub name, or a table of it.
        **options: the other fields of `TaskOptions`.

    Raises:
        UserError: no such task or column, one class only, labels that are neither integers nor names, too many rows
            without a label or title, fewer rows in a class than asked for, or an option that the task has no use for.
    """
    return _load(TaskOptions(str(task) if isinstance(task, Path) else task, **options))


def _load(options: TaskOptions) -> datasets.DatasetDict:
    options.check()
    splits = _load_docstrings(options) if options.name == "docstrings" else _load_rows(options)
    if options.drop_leakage:
        splits["validation"] = drop_leaking(splits["validation"], "validation", [splits["test"]])
        splits["train"] = drop_leaking(splits["train"], "train", [splits["test"], splits["validation"]])
    return splits


def load_task_from(arguments: TaskArguments) -> datasets.DatasetDict:
    """The task that a command's options choose; raises UserError as `load_task`."""
    return _load(options_of(arguments))


def options_of(arguments: TaskArguments) -> TaskOptions:
    """A command's options as those of `load_task`."""
    names = [option.name for option in fields(TaskOptions) if option.name != "drop_leakage"]
    return TaskOptions(**{name: getattr(arguments, FLAGS.get(name, name)) for name in names})


def text_options(arguments: TaskArguments) -> Json:
    """Those of `TEXT_OPTIONS` that differ from their default: with the settings they make the same task again."""
    defaults = TaskArguments()
    values = {name: getattr(arguments, name) for name in TEXT_OPTIONS}
    return {name: value for name, value in values.items() if value != getattr(defaults, name)}


def task_hash(task: datasets.DatasetDict) -> str:
    """SHA-256 over every split's labels and texts in order."""
    return text_hash(
        f"{split}\0{row['label']}\0{row['text']}" for split in SPLITS if split in task for row in task[split]
    )


def class_names(task: datasets.DatasetDict) -> list[str]:
    """Names of the classes, in label order."""
    return list(task["train"].features["label"].names)


def _find_task(options: TaskOptions) -> tuple[Any, str | None]:
    """Path, Hub name or object that a task is read from, and the revision to read there."""
    known = KNOWN.get(options.name)
    if known is None:
        return options.task, options.revision
    if options.path is not None:
        if not Path(options.path).expanduser().exists():
            raise UserError(f"--task-path {options.path} does not exist: give the file or folder of {options.name}.")
        return options.path, options.revision
    folder = data_root(options.root)
    if folder is not None and (folder / options.name).is_dir():
        return str(folder / options.name), options.revision
    if known.hub is None or datasets.config.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set" if known.hub else "its official files are not on the Hub"
        raise UserError(
            f"The task {options.name!r} is not under the data root, and {reason}: give --task-path, or set TLM_DATA or "
            f"--data-root to a folder that holds {options.name}/."
        )
    return known.hub, options.revision or known.revision


def _load_rows(options: TaskOptions) -> datasets.DatasetDict:
    """Read a source, choose the rows of each split, and say what was left out."""
    source = _read_source(options)
    sizes = _sizes(options)
    chosen, notes = choose_rows(source, options.name, sizes, options.seed, options.shortfall)
    dropped = {reason: count for reason, count in sorted(source.dropped.items()) if count}
    if dropped:
        notes.insert(0, f"left out {', '.join(f'{count} ({reason})' for reason, count in dropped.items())}")
    if source.two_labels:
        notes.append(f"{source.two_labels} texts of the source have more than one label and were not left out")
    if notes:
        logger.warning("Note: %s: %s.", options.name, "; ".join(notes))
    facts = {
        **source.facts,
        "task": portable_path(options.name),
        "seed": options.seed,
        "asked_per_label": {"train": sizes.pool or sizes.train, "validation": sizes.validation, "test": sizes.test},
        "validation_within_train": sizes.pool is not None,
        "dropped": dropped,
        "texts_with_two_labels": source.two_labels,
    }
    return _describe(chosen, source.names, facts)


def _read_source(options: TaskOptions) -> TaskSource:
    known = KNOWN.get(options.name)
    place, revision = _find_task(options)
    if options.name == "fewrel":
        return read_fewrel(place, options.config, options.entity_markers)
    name, table = open_table(place, options.config, revision)
    columns = Columns(
        options.text_column or (known.text_column if known else "text"), options.label_column, options.title_column
    )
    if not isinstance(place, str):
        columns = find_columns(table.splits, columns)
    source = read_rows(table.splits, options.name, columns, known.labels if known else ())
    source.facts |= {
        "source": portable_path(name),
        "revision": table.revision,
        "config": options.config,
        "columns": {"text": columns.text, "label": columns.label, "title": columns.title},
    }
    return source


def _sizes(options: TaskOptions) -> Sizes:
    """What was asked for, with the paper's numbers where none was given."""
    known = KNOWN.get(options.name)
    train, test, pool = options.train_per_label, options.test_per_label, None
    if known is not None and not options.all_rows:
        test = test or known.test_per_label
        if train is None and known.validation_within_train:
            pool = known.train_per_label
        elif train is None:
            train = known.train_per_label
    return Sizes(train, options.validation_per_label, test, pool, tenth=known is not None)


def _load_docstrings(options: TaskOptions) -> datasets.DatasetDict:
    numbers = {f"{split}_per_label": getattr(options, f"{split}_per_label") for split in SPLITS}
    given = {name: number for name, number in numbers.items() if number is not None}
    task = load_docstrings_task(seed=options.seed, **given)
    chosen = {split: [Row(row["text"], row["label"], row[ID], row["text"]) for row in task[split]] for split in SPLITS}
    facts = {
        "task": "docstrings",
        "source": "docstrings",
        "revision": f"sha256:{fingerprint()}",
        "seed": options.seed,
        "asked_per_label": {split: len(task[split]) // len(TASK_LIBRARIES) for split in SPLITS},
        "dropped": {},
        "texts_with_two_labels": 0,
    }
    return _describe(chosen, list(TASK_LIBRARIES), facts)


def _describe(chosen: dict[str, list[Row]], names: list[str], facts: Json) -> datasets.DatasetDict:
    """The chosen rows as splits that carry their facts."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names), ID: datasets.Value("string")}
    )
    splits = {}
    for split, rows in chosen.items():
        counts = Counter(row.label for row in rows)
        per_label = {label: counts[index] for index, label in enumerate(names)}
        records = [{"text": row.text, "label": row.label, ID: row.id} for row in rows]
        table = datasets.Dataset.from_list(records, features=features)
        splits[split] = describe_split(table, **facts, split_name=split, per_label=per_label)
    return datasets.DatasetDict(splits)
