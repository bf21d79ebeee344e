"""Subsets to publish: a corpus in nested sizes, or a task, each checked for leakage and cleaned of it when asked.

`data.dataset_folder` writes what comes out of here.
"""

import itertools
from dataclasses import dataclass

import datasets

from ..errors import UserError, check_range
from ..runs.atomic_files import Json
from .corpora import load_corpus
from .leakage import LeakageReport, check_splits, drop_leaking
from .sources import ID, describe_split, facts_of
from .task_options import option
from .tasks import KNOWN, TaskArguments, load_task_from


@dataclass
class PrepareDataArguments(TaskArguments):
    """Options of `tlm prepare-data`."""

    task: str = option("", "A task (as for finetune) to make a data set of.")
    corpus: str = option("", "A corpus (as for pretrain) to make a data set of.")
    num_texts: list[int] = option(list, "Sizes of the corpus, ascending, each in the next (default: all).")
    validation_texts: int = option(1000, "Held-out texts of the corpus.")
    seed: int = option(0, "Seed of the choice of a corpus' texts (a task's: --task-seed).")
    text_unit: str | None = option(None, "As for pretrain: paragraph, line or article.")
    corpus_config: str | None = option(None, "Configuration of a Hub corpus.")
    corpus_revision: str | None = option(None, "Revision of a Hub corpus.")
    check_against: list[str] = option(list, "Tasks whose whole test splits the training texts are checked against.")
    output_dir: str = option("", "The folder to make; its name is the data set's.")


@dataclass(frozen=True)
class Prepared:
    """Subsets ready to be written: by configuration the splits (`text`, `id`, for a task `label`) and leakage reports.

    `kind` is `corpus`, `task` or `overlap`, `source` the name that was given for it.
    """

    kind: str
    source: str
    configs: dict[str, datasets.DatasetDict]
    leakage: dict[str, list[LeakageReport]]


def prepare(arguments: PrepareDataArguments) -> Prepared:
    """Choose the rows that the options ask for and check them for leakage; raises UserError for bad options."""
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
    """The test split of a task to check against: the whole one of a task of the Hub, else as the options cut it off."""
    is_whole = name in KNOWN and KNOWN[name].hub is not None
    own = TaskArguments(
        task=name,
        label_column="label" if name in KNOWN else arguments.label_column,
        train_per_label=arguments.train_per_label,
        validation_per_label=arguments.validation_per_label,
        test_per_label=None if is_whole else arguments.test_per_label,
        all_rows=is_whole,
        shortfall="take",
        task_seed=arguments.task_seed,
        data_root=arguments.data_root,
    )
    return load_task_from(own)["test"]


def _prepare_corpus(arguments: PrepareDataArguments, tests: dict[str, datasets.Dataset]) -> Prepared:
    """Every size is a prefix of the largest one, so each is in the next; all have the same held-out texts."""
    sizes: list[int | None] = [*arguments.num_texts] or [None]
    corpus = load_corpus(
        arguments.corpus,
        num_texts=sizes[-1],
        validation_texts=arguments.validation_texts,
        text_column=arguments.text_column or "text",
        config=arguments.corpus_config,
        revision=arguments.corpus_revision,
        root=arguments.data_root,
        seed=arguments.seed,
        unit=arguments.text_unit,
        written=arguments,
    )
    validation = published(corpus["validation"])
    held_out = {"validation": validation, **tests}
    prepared = Prepared("corpus", arguments.corpus, {}, {})
    for size in sizes:
        name = config_name(size)
        rows = corpus["train"].select(range(size or len(corpus["train"])))
        train = published(rows, facts_of(corpus["train"]))
        if arguments.drop_leakage:
            train = drop_leaking(train, name, held_out.values())
        prepared.configs[name] = datasets.DatasetDict(train=train, validation=validation)
        prepared.leakage[name] = [check_splits(train, rows, ("train", other)) for other, rows in held_out.items()]
    return prepared


def _prepare_task(arguments: PrepareDataArguments, tests: dict[str, datasets.Dataset]) -> Prepared:
    """The task as `load_task` gives it; where that was asked, without texts that the other tasks' test splits hold."""
    splits = datasets.DatasetDict({split: published(rows) for split, rows in load_task_from(arguments).items()})
    others = {label: rows for label, rows in tests.items() if label != f"{arguments.task} test"}
    reports = []
    for split, own in (("validation", ("test",)), ("train", ("test", "validation"))):
        if arguments.drop_leakage and others:
            splits[split] = drop_leaking(splits[split], split, others.values())
        for label, rows in {**{name: splits[name] for name in own}, **others}.items():
            reports.append(check_splits(splits[split], rows, (split, label)))
    return Prepared("task", arguments.task, {"default": splits}, {"default": reports})


def published(rows: datasets.Dataset, facts: Json | None = None) -> datasets.Dataset:
    """The columns that are published, in their order, with the facts."""
    columns = [column for column in ("text", ID, "label") if column in rows.column_names]
    return describe_split(rows.select_columns(columns), **(facts or facts_of(rows)))
