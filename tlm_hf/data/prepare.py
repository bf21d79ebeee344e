"""Subsets to publish: a corpus in nested sizes, or a task, each checked for leakage and cleaned of it when asked.

`data.dataset_folder` writes what comes out of here.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import numpy as np

from ..errors import UserError, check_range
from .corpora import load_corpus
from .leakage import check_splits
from .lineage import find_lineage
from .sources import data_root
from .subsets import ID, describe_split, facts_of
from .tables import KNOWN
from .task_leakage import leaking_rows, replace_leaking, task_place
from .tasks import TaskArguments, load_task_from


@dataclass
class PrepareDataArguments(TaskArguments):
    """Options of `tlm prepare-data`."""

    task: str = field(default="", metadata={"help": "A task (as for finetune) to make a data set of."})
    corpus: str = field(default="", metadata={"help": "A corpus (as for pretrain) to make a data set of."})
    num_texts: list[int] = field(
        default_factory=list, metadata={"help": "Sizes of the corpus, ascending, each in the next (default: all)."}
    )
    validation_texts: int = field(default=1000, metadata={"help": "Held-out texts of the corpus."})
    seed: int = field(default=0, metadata={"help": "Seed of the choice of a corpus' texts (a task's: --task-seed)."})
    corpus_unit: str | None = field(
        default=None, metadata={"help": "Of a streamed Wikipedia: article (default) or paragraph."}
    )
    corpus_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub corpus."})
    corpus_revision: str | None = field(default=None, metadata={"help": "Revision of a Hub corpus."})
    check_against: list[str] = field(
        default_factory=list, metadata={"help": "Tasks whose (whole) test splits the training texts are held against."}
    )
    drop_leakage: bool = field(
        default=False, metadata={"help": "Put others in the place of training texts that stand among held-out ones."}
    )
    output_dir: str = field(default="", metadata={"help": "The folder to make; its name is the data set's."})
    json: str | None = field(
        default=None, metadata={"help": "A JSON file that gets the facts under the folder's name, beside others."}
    )


@dataclass(frozen=True)
class Prepared:
    """Subsets ready to be written.

    Attributes:
        kind: `corpus` or `task`.
        source: the name that was given for it.
        configs: by configuration the splits, with the columns `text`, `id` and for a task `label`.
        leakage: by configuration one report for each check, see `leakage.Leakage.report`, with `between` (the split
            that is trained on, and the held-out texts).
        made_from: what `lineage.find_lineage` says of the source; None where it is no folder of ours.
    """

    kind: str
    source: str
    configs: dict[str, datasets.DatasetDict]
    leakage: dict[str, list[dict[str, Any]]]
    made_from: dict[str, Any] | None = None


def prepare(arguments: PrepareDataArguments) -> Prepared:
    """Choose the rows that the options ask for and check them for leakage.

    Raises:
        UserError: both or neither of a corpus and a task, sizes that do not ascend, more texts than there are (after
            what leaks is left out, where that was asked), and whatever `load_corpus`, `load_task` and
            `task_leakage.replace_leaking` refuse.
    """
    if bool(arguments.corpus) == bool(arguments.task):
        raise UserError("Give one of --corpus and --task: a data set is made of one of them.")
    check_range(arguments, 1, float("inf"), "validation_texts")
    sizes = arguments.num_texts
    if arguments.task and sizes:
        raise UserError("--num-texts are sizes of a corpus: for a task give --train-per-label and its siblings.")
    if any(size < 1 for size in sizes) or any(one >= other for one, other in itertools.pairwise(sizes)):
        given = " ".join(str(size) for size in sizes)
        raise UserError(f"--num-texts is {given}: give sizes of at least 1 in ascending order, each once.")
    tests = {f"{name} test": _test_split(arguments, name) for name in dict.fromkeys(arguments.check_against)}
    return _prepare_corpus(arguments, tests) if arguments.corpus else _prepare_task(arguments, tests)


def config_name(size: int | None) -> str:
    """Name of a corpus size: 20000 is `20k`, 2000000 is `2m`, 1234 is `1234`, None is `all`."""
    if size is None:
        return "all"
    for letter, unit in (("m", 10**6), ("k", 10**3)):
        if size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def _test_split(arguments: PrepareDataArguments, name: str) -> datasets.Dataset:
    """The test split of a task to check against: the source's whole one, or else the one that the options cut off."""
    known = KNOWN.get(name)
    has_own = known is not None and known.hub is not None
    own = replace(
        arguments,
        task=name,
        text_column=None,
        label_column="label" if known is not None else arguments.label_column,
        title_column=None,
        entity_markers="none",
        task_path=None,
        task_config=None,
        task_revision=None,
        test_per_label=None if has_own else arguments.test_per_label,
        all_rows=has_own,
        shortfall="take",
    )
    return _columns(load_task_from(own), name)["test"]


def _lineage(arguments: PrepareDataArguments) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Where the text of a source comes from that is a folder of ours, and as a fact which configuration is read."""
    place, config = arguments.corpus, arguments.corpus_config
    root = data_root(arguments.data_root)
    if arguments.task:
        place, config = task_place(arguments), arguments.task_config
    elif place == "wikipedia" and root is not None:
        place = str(root / place)
    made_from = find_lineage(place, config)
    config = made_from["config"] if made_from else config
    return made_from, {} if config is None else {"config": config}


def _columns(splits: datasets.DatasetDict, name: str) -> datasets.DatasetDict:
    """The columns that are published, in their order, with the facts kept."""
    wanted = [column for column in ("text", ID, "label") if column in splits["train"].column_names]
    if ID not in wanted:
        raise UserError(f"{name!r} has no column {ID!r}: load it with load_corpus or load_task.")
    return datasets.DatasetDict(
        {split: _described(rows.select_columns(wanted), rows) for split, rows in splits.items()}
    )


def _described(rows: datasets.Dataset, before: datasets.Dataset, **facts: Any) -> datasets.Dataset:
    """`rows` with the facts of another split, but for the counts that `describe_split` makes anew."""
    return describe_split(rows, **{**facts_of(before), **facts})


def _prepare_corpus(arguments: PrepareDataArguments, tests: dict[str, datasets.Dataset]) -> Prepared:
    """Every size is a prefix of the largest one, so each is in the next; all have the same held-out texts."""
    name = arguments.corpus
    sizes: Sequence[int | None] = arguments.num_texts or [None]
    made_from, known = _lineage(arguments)
    corpus = _load_corpus(arguments, sizes[-1])
    train, validation = corpus["train"], _described(corpus["validation"], corpus["validation"], **known)
    leaks = np.zeros(len(train), dtype=bool)
    if arguments.drop_leakage:
        train, leaks = _enough_texts(arguments, train, {"validation": validation, **tests}, sizes[-1])
    kept = np.flatnonzero(~leaks)
    configs, leakage = {}, {}
    for size in sizes:
        rows = kept[:size]
        passed_over = int(rows[-1]) + 1 - len(rows) if size is not None else int(leaks.sum())
        facts = {"leaking_rows_dropped": passed_over} if arguments.drop_leakage else {}
        part = _described(train.select(rows), train, **known, **facts)
        configs[config_name(size)] = datasets.DatasetDict(train=part, validation=validation)
        leakage[config_name(size)] = _reports({"train": part}, {"validation": validation, **tests})
    return Prepared("corpus", name, configs, leakage, made_from)


def _load_corpus(arguments: PrepareDataArguments, size: int | None) -> datasets.DatasetDict:
    corpus = load_corpus(
        arguments.corpus,
        num_texts=size,
        validation_texts=arguments.validation_texts,
        text_column=arguments.text_column or "text",
        config=arguments.corpus_config,
        revision=arguments.corpus_revision,
        root=arguments.data_root,
        seed=arguments.seed,
        unit=arguments.corpus_unit,
    )
    return _columns(corpus, arguments.corpus)


def _enough_texts(
    arguments: PrepareDataArguments, train: datasets.Dataset, held_out: dict[str, datasets.Dataset], size: int | None
) -> tuple[datasets.Dataset, np.ndarray]:
    """Training texts of which `size` do not leak (all that there are for None), and which of them do."""
    while True:
        leaks = leaking_rows(train["text"], held_out.values())
        missing = 0 if size is None else size - int((~leaks).sum())
        if missing <= 0:
            return train, leaks
        try:
            train = _load_corpus(arguments, len(train) + missing)["train"]
        except UserError as error:
            raise UserError(
                f"{size} texts were asked for, but {int(leaks.sum())} of {len(train)} leak into held-out texts and no "
                f"other texts are left to take their place: ask for at most {int((~leaks).sum())} (--num-texts)."
            ) from error


def _prepare_task(arguments: PrepareDataArguments, tests: dict[str, datasets.Dataset]) -> Prepared:
    """The task as `load_task` gives it; where that was asked, other texts stand in the place of those that leak."""
    name = arguments.task
    made_from, known = _lineage(arguments)
    task = _columns(load_task_from(arguments), name)
    others = {label: test for label, test in tests.items() if label != f"{name} test"}
    if arguments.drop_leakage:
        task = replace_leaking(arguments, task, list(others.values()))
    task = datasets.DatasetDict({split: _described(rows, rows, **known) for split, rows in task.items()})
    reports = _reports({"train": task["train"]}, {"test": task["test"], "validation": task["validation"], **others})
    reports += _reports({"validation": task["validation"]}, {"test": task["test"], **others})
    return Prepared("task", name, {"default": task}, {"default": reports}, made_from)


def _reports(training: dict[str, datasets.Dataset], held_out: dict[str, datasets.Dataset]) -> list[dict[str, Any]]:
    return [
        {"between": [one, other], **check_splits(rows, texts)[1]}
        for one, rows in training.items()
        for other, texts in held_out.items()
    ]
