"""Classification tasks: `docstrings` (embedded), AG News, DBpedia-14, FewRel, any table with a text and a label column.

Each is a `DatasetDict` of train, validation and test, whose rows hang on the source and the seed alone; what reproduces
a split travels with it (`subsets.facts_of`)::

    task = load_task("fewrel", root="data", train_per_label=150, test_per_label=30)
    facts_of(task["train"])     # source, revision, seed, counts by class, rows left out by reason
"""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from ..errors import UserError
from ..runs.provenance import portable_path
from .docstrings import TASK_LIBRARIES, fingerprint, load_docstrings, load_docstrings_task, mask_names
from .fewrel import MARKINGS, read_fewrel
from .sources import data_root, read_source, text_hash
from .subsets import ID, describe_split
from .tables import KNOWN, SPLITS, KnownTask, Row, read_rows
from .task_splits import Sizes, choose_rows

logger = logging.getLogger(__name__)

SHORTFALLS = ("error", "take")


@dataclass
class TaskArguments:
    """Options that choose a task; shared by every command that takes one."""

    task: str = field(
        default="docstrings",
        metadata={"help": "docstrings, ag_news, dbpedia_14, fewrel, a file or folder, or a Hub data set."},
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the text (default: the task's, or text)."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the label."})
    title_column: str | None = field(
        default=None, metadata={"help": "Column put before the text, such as title for dbpedia_14 (default: none)."}
    )
    entity_markers: str = field(
        default="none", metadata={"help": "For fewrel: none, text ([E1] ... as ordinary text) or added (as tokens)."}
    )
    task_path: str | None = field(
        default=None, metadata={"help": "Where ag_news, dbpedia_14 or fewrel lies (default: data root, then the Hub)."}
    )
    task_config: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub data set; for fewrel train_wiki or val_wiki."}
    )
    task_revision: str | None = field(default=None, metadata={"help": "Revision of a Hub data set."})
    train_per_label: int | None = field(
        default=None, metadata={"help": "Training texts of each class (default: the paper's for its tasks, or all)."}
    )
    validation_per_label: int | None = field(default=None, metadata={"help": "Validation texts of each class."})
    test_per_label: int | None = field(default=None, metadata={"help": "Test texts of each class (default: likewise)."})
    all_rows: bool = field(
        default=False, metadata={"help": "Where no number is given, all there is instead of the paper's numbers."}
    )
    shortfall: str = field(
        default="error", metadata={"help": "When a class has fewer texts than asked for: error, or take all it has."}
    )
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
    title_column: str | None = None,
    entity_markers: str = "none",
    path: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    root: str | None = None,
    seed: int = 0,
    all_rows: bool = False,
    shortfall: str = "error",
) -> datasets.DatasetDict:
    """Load a task as train, validation and test splits with `text`, `label` (ClassLabel with names) and `id`.

    Validation rows come out of the training split, so the test split is never used for choosing. Where the source has
    no test split, 15% of each class are held out as test and 15% as validation (where it has one, validation is a tenth
    of each class, at most 200 texts). The choice of rows depends on the texts and the seed alone; a smaller number of
    training rows with the same seed is a subset of a larger one. Rows without a text or a label are left out, as are
    rows whose text stands in another split, where it stays in test before validation before train. A text that stands
    under two labels is left out of FewRel; in a table it is kept and counted. A column `id` of a table is kept where it
    tells the rows apart (strings, none missing, all different); else the id says where the row stands.

    AG News and DBpedia-14 have by default the paper's 1000 and 100 texts of each class, train and test alike. FewRel
    has 630 and 70. The official files have 700 sentences of each relation, so a tenth of the 630 are the validation
    split; and since those that stand under two relations are left out, many relations have somewhat fewer, and the
    numbers are refused unless `shortfall` is `take`.

    The facts of each split (`subsets.facts_of`): `task`, `split_name`, `source`, `revision` (of the Hub, or the SHA-256
    of a local file or of a folder's `sha256sum` lines), `seed`, `columns`, `asked_per_label`, `per_label` (what each
    class got), `dropped` (rows of the source by reason), `texts_with_two_labels` (kept), and FewRel's options.

    Args:
        name: `docstrings`, `ag_news`, `dbpedia_14`, `fewrel`, a file, a folder, or `owner/name` on the Hub.
        train_per_label: texts of each class for training; None for the paper's number, or all (docstrings: 200).
        validation_per_label: likewise for validation; None for a tenth of the class's training rows, at most 200.
        test_per_label: likewise for test; None for the paper's number, or all.
        text_column: column of the text; None for the known task's, or `text`.
        label_column: column of the label: class names, integers, whole floats or booleans.
        title_column: column put before the text, with a space between; None for the text alone.
        entity_markers: for `fewrel`, see `fewrel.read_fewrel`.
        path: where a known task lies; None for the folder of its name under the data root, or else the Hub.
        config: configuration of a Hub data set; for `fewrel` the part, `train_wiki` (default) or `val_wiki`.
        revision: revision of a Hub data set; None for the pinned one of a known task. The facts have its commit.
        root: data root; None for the variable TLM_DATA.
        seed: chooses the rows.
        all_rows: where no number is given, take all there is, for known tasks too.
        shortfall: what happens where a class has fewer rows than asked for: `error`, or `take` all that it has.

    Raises:
        UserError: no such task or column, one class only, labels that are neither integers nor names, too many rows
            without a label or title, fewer rows in a class than asked for, or an option that the task has no use for.
    """
    wanted = {"train": train_per_label, "validation": validation_per_label, "test": test_per_label}
    for split, count in wanted.items():
        if count is not None and count < 1:
            raise UserError(f"--{split}-per-label is {count}: give at least 1.")
    if shortfall not in SHORTFALLS:
        raise UserError(f"--shortfall is {shortfall!r}: give error or take.")
    if entity_markers not in MARKINGS:
        raise UserError(f"--entity-markers is {entity_markers!r}: give one of {', '.join(MARKINGS)}.")
    known = KNOWN.get(name)
    if known is None and path is not None:
        raise UserError(f"--task-path is where {', '.join(KNOWN)} lies: for {name!r} give the path itself as the task.")
    if name != "fewrel" and entity_markers != "none":
        raise UserError(f"--entity-markers belongs to the task fewrel, not to {name!r}: leave it out.")
    if name in ("docstrings", "fewrel") and title_column is not None:
        raise UserError(f"The task {name!r} has no titles: leave --title-column out.")
    unused = {"text-column": text_column, "task-revision": revision, "task-config": config}
    if name == "fewrel":
        del unused["task-config"]
    for option, value in unused.items():
        if name in ("docstrings", "fewrel") and value is not None:
            raise UserError(f"The task {name!r} has no use for --{option} {value}: leave it out.")
    if name == "docstrings":
        if all_rows:
            raise UserError("The task 'docstrings' is balanced by number: give --train-per-label, not --all-rows.")
        return _load_docstrings(wanted, seed)
    place, fixed_revision = _find(name, known, path, revision, root)
    if name == "fewrel":
        source = read_fewrel(place, config, entity_markers)
    else:
        table, found_revision = read_source(place, config=config, revision=fixed_revision)
        columns = (text_column or (known.text_column if known else "text"), label_column, title_column)
        source = read_rows(table, name, columns, known)
        source.facts |= {
            "source": portable_path(place),
            "revision": found_revision,
            "config": config,
            "columns": dict(zip(("text", "label", "title"), columns, strict=True)),
        }
    sizes = _sizes(known, wanted, all_rows)
    chosen, notes = choose_rows(source, name, sizes, seed, shortfall, tenth=known is not None)
    dropped = {reason: count for reason, count in sorted(source.dropped.items()) if count}
    if dropped:
        notes.insert(0, f"left out {', '.join(f'{count} ({reason})' for reason, count in dropped.items())}")
    if source.two_labels:
        notes.append(f"{source.two_labels} texts of the source stand under more than one label and were not left out")
    if notes:
        logger.warning("Note: %s: %s.", name, "; ".join(notes))
    asked = {**sizes._asdict(), "train": sizes.pool or sizes.train}
    facts = {
        **source.facts,
        "task": portable_path(name),
        "seed": seed,
        "asked_per_label": {split: asked[split] for split in SPLITS},
        "validation_within_train": sizes.pool is not None,
        "dropped": dropped,
        "texts_with_two_labels": source.two_labels,
    }
    return _describe(chosen, source.names, facts)


def load_task_from(arguments: TaskArguments) -> datasets.DatasetDict:
    """The task that the options choose; raises UserError as `load_task`."""
    return load_task(
        arguments.task,
        train_per_label=arguments.train_per_label,
        validation_per_label=arguments.validation_per_label,
        test_per_label=arguments.test_per_label,
        text_column=arguments.text_column,
        label_column=arguments.label_column,
        title_column=arguments.title_column,
        entity_markers=arguments.entity_markers,
        path=arguments.task_path,
        config=arguments.task_config,
        revision=arguments.task_revision,
        root=arguments.data_root,
        seed=arguments.task_seed,
        all_rows=arguments.all_rows,
        shortfall=arguments.shortfall,
    )


TEXT_OPTIONS = ("title_column", "entity_markers", "all_rows", "shortfall")
"""Options that are not among a run's settings, since they count by the texts that they choose."""


def text_options(arguments: TaskArguments) -> dict[str, Any]:
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


def _find(
    name: str, known: KnownTask | None, path: str | None, revision: str | None, root: str | None
) -> tuple[str, str | None]:
    """Path or Hub name of a task, and the revision to read there."""
    if known is None:
        return name, revision
    if path is not None:
        if not Path(path).expanduser().exists():
            raise UserError(f"--task-path {path} does not exist: give the file or folder of {name}.")
        return path, revision
    folder = data_root(root)
    if folder is not None and (folder / name).is_dir():
        return str(folder / name), revision
    if known.hub is None:
        raise UserError(
            f"The task {name!r} is not under the data root, and its official files are not on the Hub: give "
            f"--task-path, or set TLM_DATA or --data-root to a folder that holds {name}/."
        )
    if datasets.config.HF_HUB_OFFLINE:
        raise UserError(
            f"The task {name!r} is not under the data root and HF_HUB_OFFLINE is set: set TLM_DATA or --data-root "
            f"to a folder that holds {name}/*.parquet, or allow the Hub."
        )
    return known.hub, revision or known.revision


def _sizes(known: KnownTask | None, wanted: dict[str, int | None], all_rows: bool) -> Sizes:
    """What was asked for, with the paper's numbers where none was given."""
    train, validation, test = (wanted[split] for split in SPLITS)
    if known is None or all_rows:
        return Sizes(train, validation, test)
    if test is None:
        test = known.test_per_label
    if train is not None:
        return Sizes(train, validation, test)
    if known.validation_within_train:
        return Sizes(None, validation, test, known.train_per_label)
    return Sizes(known.train_per_label, validation, test)


def _load_docstrings(wanted: dict[str, int | None], seed: int) -> datasets.DatasetDict:
    """The embedded task with the ids of its paragraphs, which are found again by their masked text."""
    given: dict[str, Any] = {f"{split}_per_label": count for split, count in wanted.items() if count is not None}
    task, corpus = load_docstrings_task(seed=seed, **given), load_docstrings()
    chosen = {}
    for split in SPLITS:
        rows = [Row(row["text"], row["label"], "", row["text"]) for row in task[split]]
        wanting = {(TASK_LIBRARIES[row.label], row.text): number for number, row in enumerate(rows)}
        missing = Counter(library for library, _ in wanting)
        columns = (corpus[split][column][:] for column in ("text", "library", "row_id"))
        known = [(*row, hashlib.sha256(f"{seed}\n{row[0]}".encode()).digest()) for row in zip(*columns, strict=True)]
        # Texts may be equal once masked: the task took the first in this order, and few beyond those it took.
        for text, library, row_id, _ in sorted(known, key=lambda row: row[-1]):
            number = wanting.pop((library, mask_names(text)), None) if missing[library] else None
            if number is not None:
                rows[number] = rows[number]._replace(id=row_id)
                missing[library] -= 1
        chosen[split] = rows
    facts = {
        "task": "docstrings",
        "source": "docstrings",
        "revision": f"sha256:{fingerprint()}",
        "seed": seed,
        "asked_per_label": {split: len(task[split]) // len(TASK_LIBRARIES) for split in SPLITS},
        "dropped": {},
        "texts_with_two_labels": 0,
    }
    return _describe(chosen, list(TASK_LIBRARIES), facts)


def _describe(chosen: dict[str, list[Row]], names: list[str], facts: dict[str, Any]) -> datasets.DatasetDict:
    """The chosen rows as splits that carry their facts."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names), ID: datasets.Value("string")}
    )
    splits = {}
    for split, rows in chosen.items():
        columns = {
            "text": [row.text for row in rows],
            "label": [row.label for row in rows],
            ID: [row.id for row in rows],
        }
        counts = Counter(row.label for row in rows)
        per_label = {label: counts[index] for index, label in enumerate(names)}
        table = datasets.Dataset.from_dict(columns, features=features)
        splits[split] = describe_split(table, **facts, split_name=split, per_label=per_label)
    return datasets.DatasetDict(splits)
