"""How much of the tasks' tokens a corpus has, and subsets of it with high, random and low overlap."""

import math
import os
from dataclasses import dataclass

import datasets
from scipy.sparse import csr_matrix
from transformers import PreTrainedTokenizerBase

from ..errors import UserError, check_range
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .corpora import load_corpus
from .dataset_folder import open_destination, write_dataset_folder
from .overlap import MIN_COUNT, count_tokens, encode_texts, measure_overlap
from .overlap_subsets import add_configs, select_subsets, subset_splits, task_stem
from .prepare import Prepared
from .sources import facts_of, text_hash
from .task_options import option
from .tasks import load_task
from .tokenization import load_tokenizer, tokenizer_hash, train_wordpiece

SHOWN = ("train", "test")
MEASURES = ("jensen_shannon_bits", "type_coverage", "occurrence_coverage")


@dataclass
class OverlapArguments:
    """Options of `tlm overlap`."""

    corpus: str = option("wikipedia", "docstrings, wikipedia, a file or folder, or a Hub data set.")
    text_column: str = option("text", "Column of the corpus that holds the text.")
    corpus_texts: int | None = option(None, "Texts to choose from (default: all).")
    tasks: list[str] = option(
        lambda: ["ag_news", "dbpedia_14", "fewrel"], "Tasks: known names, files, folders or Hub data sets."
    )
    train_per_label: int | None = option(None, "Training texts of each class (default: the task's).")
    test_per_label: int | None = option(None, "Test texts of each class.")
    shortfall: str = option("error", "Where a class has fewer rows than asked for: error, or take all it has.")
    tokenizer: str | None = option(None, "vocab.txt, folder or Hub name; default: a WordPiece trained on the corpus.")
    vocab_size: int = option(8000, "Size of the trained WordPiece.")
    num_texts: int = option(20_000, "Texts of each subset.")
    max_length: int = option(128, "Tokens of each text that count, special tokens included.")
    min_count: int = option(MIN_COUNT, "How often a subset must have a token to cover it.")
    seed: int = option(0, "Seed of the random subset and of ties.")
    task_seed: int = option(0, "Seed of the choice of a task's rows.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")
    output_dir: str | None = option(
        None, "Data set folder to make of the subsets: configurations TASK-high, TASK-random, TASK-low."
    )


def overlap(arguments: OverlapArguments) -> Json:
    """Measure token overlap, and choose subsets of a corpus with high, random and low overlap with each task.

    The subsets are chosen by the tasks' training splits (see `data.overlap_subsets`) and measured on both training and
    test splits (see `data.overlap`). With `output_dir` they become a data set folder with a card.

    Returns:
        `table` (measures by task, by subset or the whole `corpus`, by split), facts of corpus, tokenizer and `subsets`.

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
    corpus = load_corpus(
        arguments.corpus,
        num_texts=arguments.corpus_texts,
        text_column=arguments.text_column,
        root=arguments.data_root,
    )
    texts = list(corpus["train"]["text"])
    _check_number(arguments, len(texts))
    if arguments.tokenizer is not None:
        tokenizer = load_tokenizer(os.path.expandvars(arguments.tokenizer))
    else:
        tokenizer = train_wordpiece(texts, arguments.vocab_size, arguments.max_length)
    tokens = encode_texts(texts, tokenizer, arguments.max_length)
    results: Json = {
        "corpus": {
            "name": portable_path(arguments.corpus),
            "texts": len(texts),
            "tokens": int(tokens.sum()),
            "sha256": text_hash(texts),
        },
        "tokenizer": {
            "name": portable_path(arguments.tokenizer) if arguments.tokenizer else "WordPiece trained on the corpus",
            "tokens": len(tokenizer),
            "sha256": tokenizer_hash(tokenizer),
        },
        "subsets": {},
        "table": {},
    }
    prepared = Prepared("overlap", arguments.corpus, {}, {})
    for name, task in tasks.items():
        splits, measures = _choose(arguments, corpus["train"], tokens, tokenizer, name, task)
        results["subsets"][portable_path(name)] = {kind: facts_of(split) for kind, split in splits.items()}
        results["table"][portable_path(name)] = measures
        if destination is not None:
            add_configs(prepared, name, splits, corpus, task["test"], measures, results["tokenizer"])
    if destination is not None:
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


def _choose(
    arguments: OverlapArguments,
    corpus: datasets.Dataset,
    tokens: csr_matrix,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    task: datasets.DatasetDict,
) -> tuple[datasets.DatasetDict, Json]:
    """A task's subsets, and by subset (and for the whole `corpus`) the measures on training and test split."""
    counts = {
        split: count_tokens(encode_texts(list(task[split]["text"]), tokenizer, arguments.max_length)) for split in SHOWN
    }
    subsets = select_subsets(tokens, corpus["text"][:], counts["train"], arguments.num_texts, seed=arguments.seed)
    of_kinds = {kind: count_tokens(tokens, subset.indices) for kind, subset in subsets.items()}
    of_kinds["corpus"] = count_tokens(tokens)
    measures = {
        kind: {split: measure_overlap(of_kind, counts[split], arguments.min_count) for split in SHOWN}
        for kind, of_kind in of_kinds.items()
    }
    facts = {"source": facts_of(corpus), "task": portable_path(name), "max_length": arguments.max_length}
    return subset_splits(corpus, subsets, **facts, seed=arguments.seed), measures
