"""Classification tasks: `docstrings` (embedded), AG News, DBpedia-14, FewRel, any table of texts and labels."""

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from ..errors import UserError, check_range, flag
from ..runs.atomic_files import Json
from .docstrings import PER_LABEL, read_docstrings
from .fewrel import MARKINGS, read_fewrel
from .kinds import MULTI, PAIR, REGRESSION, SINGLE, label_feature
from .labels import read_rows
from .near_duplicates import drop_leaking
from .sources import ID, Source, data_root, left_out, read_source, text_hash
from .tables import SPLITS, Row, Table, TaskSource, without_rare_classes
from .task_options import TABLE_OPTIONS, TEXT_OPTIONS, TaskArguments
from .task_splits import choose_rows

logger = logging.getLogger(__name__)
OBJECT = "the data set"  # name of a task that was given as a table object


class KnownTask(NamedTuple):
    """A task of the paper: its pinned commit on the Hub, its classes in order, and how many texts of each it takes."""

    hub: str | None
    revision: str | None
    text_column: str
    labels: tuple[str, ...]
    train_per_label: int
    test_per_label: int


AG_NEWS, AG_NEWS_COMMIT = "World Sports Business Sci/Tech", "eb185aade064a813bc0b7f42de02595523103ca4"
DBPEDIA_COMMIT = "9abd46cf7fc8b4c64290f26993c540b92aa145ac"
DBPEDIA = (
    "Company EducationalInstitution Artist Athlete OfficeHolder MeanOfTransportation Building NaturalPlace Village "
    "Animal Plant Album Film WrittenWork"
)
KNOWN = {
    "ag_news": KnownTask("fancyzhx/ag_news", AG_NEWS_COMMIT, "text", tuple(AG_NEWS.split()), 1000, 1000),
    "dbpedia_14": KnownTask("fancyzhx/dbpedia_14", DBPEDIA_COMMIT, "content", tuple(DBPEDIA.split()), 100, 100),
    # Of the paper's 630 training texts a tenth is held out.
    "fewrel": KnownTask(None, None, "tokens", (), train_per_label=567, test_per_label=70),
}
UNUSED = {OBJECT: {"task_config", "task_revision"}}  # options of no use, beside those of tables
UNUSED["fewrel"] = UNUSED[OBJECT] | {"text_column", "label_column"}
UNUSED["docstrings"] = UNUSED["fewrel"] | {"train_seed", "task_path"}
LABEL_WORDS = {SINGLE: "class", MULTI: "set of labels", REGRESSION: "number"}
KEYWORDS = {"path": "task_path", "config": "task_config", "revision": "task_revision", "seed": "task_seed"}
KEYWORDS |= {"root": "data_root"}  # keywords of `load_task` with another name among a command's options


def load_task(task: str | Path | datasets.Dataset | datasets.DatasetDict, **options: Any) -> datasets.DatasetDict:
    """Load a task as train, validation and test splits with `text`, `label` (ClassLabel with names) and `id`.

    `task` is its name, path or Hub name, or a table; `options` are the other fields of `TaskArguments`, those of
    `KEYWORDS` by their short names. Splits that the source lacks come out of its training rows. Rows depend on the
    texts and the seed alone; fewer training rows are a subset of more. Rows without text or label are left out, and
    those whose text is in another split: test comes before validation before train; each split's `info.description`
    counts them (not those of `drop_leakage`). With `problem_type` multi the labels are lists of classes, with
    regression numbers; pairs of texts have a column `text_pair`. Raises UserError for what cannot be read, or an
    option without use.
    """
    named = {KEYWORDS.get(name, name): value for name, value in options.items()}
    return load_task_from(TaskArguments(task=task, **named))  # type: ignore[arg-type]


def load_task_from(arguments: TaskArguments, every_class: bool = True) -> datasets.DatasetDict:
    """The task that options choose; a function's may be a table. With `every_class` each split has every class."""
    table, given = None, arguments.task
    if isinstance(given, Path):
        given, arguments = str(given), replace(arguments, task=str(given))
    if not isinstance(given, str | datasets.Dataset | datasets.DatasetDict):
        raise UserError(f"A task is a name, a path or a Dataset, not a {type(given).__name__}: give one of these.")
    if not isinstance(given, str):
        splits = given if isinstance(given, datasets.DatasetDict) else datasets.DatasetDict(train=given)
        table, arguments = Source(splits.with_format(None)), replace(arguments, task=OBJECT)
    _check(arguments)
    splits = _load_rows(arguments, table, every_class)
    if arguments.drop_leakage:
        splits["validation"] = drop_leaking(splits["validation"], "validation", [splits["test"]])
        splits["train"] = drop_leaking(splits["train"], "train", [splits["test"], splits["validation"]])
    return splits


def _check(arguments: TaskArguments) -> None:
    check_range(arguments, 1, float("inf"), "train_per_label", "validation_per_label", "test_per_label")
    check_range(arguments, 0, float("inf"), "drop_rare_classes", "merge_rare_classes")
    for name, choices in (("shortfall", ("error", "take")), ("entity_markers", MARKINGS)):
        if getattr(arguments, name) not in choices:
            raise UserError(f"{flag(name)} is {getattr(arguments, name)!r}: choose {' or '.join(choices)}.")
    unused = {*UNUSED.get(arguments.task, ()), *([] if arguments.task == "fewrel" else ["entity_markers"])}
    unused |= set(TABLE_OPTIONS) if arguments.task in ("docstrings", *KNOWN) else {"task_path"}
    for option in fields(TaskArguments):
        value = getattr(arguments, option.name)
        if option.name in unused and value != option.default:
            raise UserError(f"The task {arguments.task!r} has no use for {flag(option.name)} {value}: leave it out.")


def text_options(arguments: TaskArguments) -> Json:
    """Those of `TEXT_OPTIONS` that differ from their default: with the settings they make the same task again."""
    chosen = ((each.name, getattr(arguments, each.name), each.default) for each in fields(TaskArguments))
    return {name: value for name, value, default in chosen if name in TEXT_OPTIONS and value != default}


def task_hash(task: datasets.DatasetDict) -> str:
    """SHA-256 over every split's labels and texts in order."""
    rows = ((split, row) for split in SPLITS if split in task for row in task[split])
    return text_hash(
        "\0".join([split, str(row["label"]), row["text"], *([row[PAIR]] if PAIR in row else [])]) for split, row in rows
    )


def _find_task(arguments: TaskArguments) -> tuple[str, str | None]:
    """The path or Hub name of a task, and the revision to read."""
    name, path, revision = arguments.task, arguments.task_path, arguments.task_revision
    known = KNOWN.get(name)
    if known is None:
        return name, revision
    if path is not None:
        if not Path(path).expanduser().exists():
            raise UserError(f"--task-path {path} does not exist: give the file or folder of {name}.")
        return path, revision
    folder = data_root(arguments.data_root)
    if folder is not None and (folder / name).is_dir():
        return str(folder / name), revision
    if known.hub is None or datasets.config.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set" if known.hub else "its official files are not on the Hub"
        remedy = f"give --task-path, or set TLM_DATA or --data-root to a folder that holds {name}/"
        raise UserError(f"The task {name!r} is not under the data root, and {reason}: {remedy}.")
    return known.hub, revision or known.revision


def _load_rows(arguments: TaskArguments, table: Source | None, every_class: bool) -> datasets.DatasetDict:
    name, known = arguments.task, KNOWN.get(arguments.task)
    defaults = {} if known is None else {"train": known.train_per_label, "test": known.test_per_label}
    if name == "docstrings":
        source, defaults = read_docstrings(), PER_LABEL
    elif name == "fewrel":
        source = read_fewrel(_find_task(arguments)[0], arguments.entity_markers)
    else:
        source = _read_table(arguments, table)
    word, sizes = LABEL_WORDS[source.problem_type], [f"{split}_per_label" for split in SPLITS]
    unused = [] if source.problem_type == SINGLE else [*sizes, "drop_rare_classes", "merge_rare_classes"]
    for option in [*unused, *(["drop_leakage"] if arguments.text_pair_column is not None else [])]:
        if getattr(arguments, option):
            raise UserError(f"{flag(option)} works only for single texts with one class each: leave it out.")
    if arguments.drop_rare_classes or arguments.merge_rare_classes:
        without_rare_classes(source, arguments.drop_rare_classes, arguments.merge_rare_classes)
    if every_class and len({row.label for rows in source.rows.values() for row in rows}) < 2:
        raise UserError(f"All texts of {name!r} have one {word}: give at least two, or set --label-column.")
    limits = {split: getattr(arguments, size) or defaults.get(split) for split, size in zip(SPLITS, sizes, strict=True)}
    chosen = choose_rows(source, arguments, limits, tenth=known is not None, every_class=every_class)
    if source.two_labels:
        fate = "copies stay, but in one split alone" if source.problem_type == SINGLE else "the first one counts"
        source.notes.append(f"{source.two_labels} texts occur with more than one {word}: {fate}")
    description = _say_notes(source, name)
    return datasets.DatasetDict({split: _as_dataset(rows, source, description) for split, rows in chosen.items()})


def _say_notes(source: TaskSource, name: str) -> str:
    """Log and return what is to be said of a source: rows left out, and its notes."""
    said = "; ".join(filter(None, [left_out(dict(sorted(source.dropped.items()))), *source.notes]))
    if said:
        logger.warning("Note: %s: %s.", name, said)
    return said


def _read_table(arguments: TaskArguments, source: Source | None = None) -> TaskSource:
    """All usable rows of the table that a command's options name (unless it is given); raises as `read_rows`."""
    known = KNOWN.get(arguments.task)
    if source is None:
        place, revision = _find_task(arguments)
        source = read_source(place, config=arguments.task_config, revision=revision, written=arguments)
    text = arguments.text_column or (known.text_column if known else None)
    table = Table.open(source, arguments.task, text, arguments.label_column, arguments.text_pair_column)
    return read_rows(table, known.labels if known else (), arguments.problem_type)


def every_row(arguments: TaskArguments) -> datasets.Dataset:
    """All usable rows of a table as one split; raises UserError as `read_rows`."""
    source = _read_table(arguments)
    description = _say_notes(source, arguments.task)
    return _as_dataset([row for rows in source.rows.values() for row in rows], source, description)


def _as_dataset(rows: list[Row], source: TaskSource, description: str) -> datasets.Dataset:
    string = datasets.Value("string")
    columns = {"text": string, "label": label_feature(source.problem_type, source.names), ID: string}
    columns |= {PAIR: string} if any(row.text_pair is not None for row in rows) else {}
    values = {name: [getattr(row, name) for row in rows] for name in columns}
    info = datasets.DatasetInfo(description=description, features=datasets.Features(columns))
    return datasets.Dataset.from_dict(values, info=info)
