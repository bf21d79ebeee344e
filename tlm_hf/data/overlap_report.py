"""How much of the tasks' tokens a corpus has, and subsets of it with high, random and low overlap."""

import math
import os
from dataclasses import dataclass, field

import datasets
from transformers import PreTrainedTokenizerBase

from ..errors import UserError, check_range
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .corpora import load_corpus
from .dataset_folder import open_destination, write_dataset_folder
from .overlap import MIN_COUNT, TokenTexts, count_tokens, encode_texts, measure_overlap
from .overlap_subsets import KINDS, select_subsets, subset_configs, subset_splits, task_stem
from .prepare import Prepared
from .sources import facts_of, text_hash
from .tasks import load_task
from .tokenization import load_tokenizer, tokenizer_hash, train_wordpiece

SHOWN = ("train", "test")
MEASURES = ("jensen_shannon_bits", "type_coverage", "occurrence_coverage")


@dataclass
class OverlapArguments:
    """Options of `tlm overlap`."""

    corpus: str = field(
        default="wikipedia", metadata={"help": "docstrings, wikipedia, a file or folder, or a Hub data set."}
    )
    text_column: str = field(default="text", metadata={"help": "Column of the corpus that holds the text."})
    corpus_texts: int | None = field(default=None, metadata={"help": "Texts to choose from (default: all)."})
    tasks: list[str] = field(
        default_factory=lambda: ["ag_news", "dbpedia_14", "fewrel"],
        metadata={"help": "Tasks: known names, files, folders or Hub data sets."},
    )
    train_per_label: int | None = field(
        default=None, metadata={"help": "Training texts of each class (default: the task's)."}
    )
    test_per_label: int | None = field(default=None, metadata={"help": "Test texts of each class."})
    shortfall: str = field(
        default="error", metadata={"help": "Where a class has fewer rows than asked for: error, or take all it has."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "vocab.txt, folder or Hub name; default: a WordPiece trained on the corpus."}
    )
    vocab_size: int = field(default=8000, metadata={"help": "Size of the trained WordPiece."})
    num_texts: int = field(default=20_000, metadata={"help": "Texts of each subset."})
    max_length: int = field(default=128, metadata={"help": "Tokens of each text that count, special tokens included."})
    min_count: int = field(default=MIN_COUNT, metadata={"help": "How often a subset must have a token to cover it."})
    seed: int = field(default=0, metadata={"help": "Seed of the random subset and of ties."})
    task_seed: int = field(default=0, metadata={"help": "Seed of the choice of a task's rows."})
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Data set folder to make of the subsets: configurations TASK-high, TASK-random, TASK-low."},
    )


@dataclass(frozen=True)
class _Corpus:
    """The corpus, its training texts and their tokens."""

    splits: datasets.DatasetDict
    texts: list[str]
    tokens: TokenTexts
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Selection:
    """One task's subsets, and how they and the whole corpus overlap with the task."""

    splits: datasets.DatasetDict
    measures: dict[str, dict[str, dict[str, float]]]


def overlap(arguments: OverlapArguments) -> Json:
    """Measure token overlap, and choose subsets of a corpus with high, random and low overlap with each task.

    The subsets are chosen by the tasks' training splits (see `data.overlap_subsets`) and measured on both training and
    test splits (see `data.overlap`). With `output_dir` they become a data set folder with a card.

    Returns:
        `table` (by task, by subset or the whole `corpus`, by split the measures), the facts of corpus, tokenizer and
        `subsets`.

    Raises:
        UserError: bad input, before the selection.
    """
    _check(arguments)
    destination = open_destination(arguments) if arguments.output_dir is not None else None
    options = {
        "root": arguments.data_root,
        "seed": arguments.task_seed,
        "shortfall": arguments.shortfall,
        "train_per_label": arguments.train_per_label,
        "test_per_label": arguments.test_per_label,
    }
    tasks = {name: load_task(name, **options) for name in arguments.tasks}
    corpus = _read_corpus(arguments)
    selections = {name: _select(arguments, corpus, name, task) for name, task in tasks.items()}
    by_task = {portable_path(name): selection for name, selection in selections.items()}
    results: Json = {
        "corpus": {
            "name": portable_path(arguments.corpus),
            "texts": len(corpus.texts),
            "tokens": len(corpus.tokens.ids),
            "sha256": text_hash(corpus.texts),
        },
        "tokenizer": {
            "name": portable_path(arguments.tokenizer) if arguments.tokenizer else "WordPiece trained on the corpus",
            "tokens": len(corpus.tokenizer),
            "sha256": tokenizer_hash(corpus.tokenizer),
        },
        "subsets": {
            name: {kind: facts_of(selection.splits[kind]) for kind in KINDS} for name, selection in by_task.items()
        },
        "table": {name: selection.measures for name, selection in by_task.items()},
    }
    if destination is not None:
        prepared = Prepared("overlap", arguments.corpus, {}, {})
        for name, selection in selections.items():
            configs, leakage = subset_configs(
                name, selection.splits, corpus.splits, tasks[name]["test"], selection.measures, results["tokenizer"]
            )
            prepared.configs.update(configs)
            prepared.leakage.update(leakage)
        write_dataset_folder(prepared, *destination)
    return results


def _check(arguments: OverlapArguments) -> None:
    """Raise UserError for options that cannot work; nothing is read yet."""
    check_range(arguments, 1, math.inf, "num_texts", "min_count", "corpus_texts", "vocab_size")
    check_range(arguments, 3, math.inf, "max_length")
    stems = {task_stem(name).casefold() for name in arguments.tasks}
    if not stems or "" in stems or len(stems) < len(arguments.tasks):
        raise UserError("--tasks names no task, or two by one name: name each task once, with file names that differ.")
    _check_number(arguments, arguments.corpus_texts)


def _check_number(arguments: OverlapArguments, texts: int | None) -> None:
    """Refuse subsets larger than the corpus, before a vocabulary is trained on it."""
    if texts is not None and arguments.num_texts > texts:
        raise UserError(
            f"{arguments.num_texts} texts per subset were asked for, but the corpus has {texts} to choose from: ask "
            f"for at most {texts} (--num-texts)."
        )


def _read_corpus(arguments: OverlapArguments) -> _Corpus:
    """The corpus with its tokens; its vocabulary is trained where no tokenizer is given."""
    splits = load_corpus(
        arguments.corpus,
        num_texts=arguments.corpus_texts,
        text_column=arguments.text_column,
        root=arguments.data_root,
    )
    texts = list(splits["train"]["text"])
    _check_number(arguments, len(texts))
    if arguments.tokenizer is not None:
        tokenizer = load_tokenizer(os.path.expandvars(arguments.tokenizer))
    else:
        tokenizer = train_wordpiece(texts, arguments.vocab_size, arguments.max_length)
    return _Corpus(splits, texts, encode_texts(texts, tokenizer, arguments.max_length), tokenizer)


def _select(arguments: OverlapArguments, corpus: _Corpus, name: str, task: datasets.DatasetDict) -> _Selection:
    """Choose a task's subsets by its training split, and measure them and the whole corpus on training and test."""
    counts = {
        split: count_tokens(encode_texts(list(task[split]["text"]), corpus.tokenizer, arguments.max_length))
        for split in SHOWN
    }
    subsets = select_subsets(corpus.tokens, corpus.texts, counts["train"], arguments.num_texts, seed=arguments.seed)
    splits = subset_splits(
        corpus.splits["train"],
        subsets,
        source=facts_of(corpus.splits["train"]) or portable_path(arguments.corpus),
        task=portable_path(name),
        max_length=arguments.max_length,
        seed=arguments.seed,
    )
    of_corpus = {kind: count_tokens(corpus.tokens, subsets[kind].indices) for kind in KINDS}
    of_corpus["corpus"] = count_tokens(corpus.tokens)
    measures = {
        kind: {split: measure_overlap(of_kind, counts[split], arguments.min_count) for split in SHOWN}
        for kind, of_kind in of_corpus.items()
    }
    return _Selection(splits, measures)
