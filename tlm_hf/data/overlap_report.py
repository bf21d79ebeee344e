"""How much of the tasks' tokens a corpus has, and subsets of it with high, random and low overlap."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import datasets

from ..errors import UserError, check_range
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .corpora import load_corpus
from .dataset_folder import open_destination, write_dataset_folder
from .overlap import MIN_COUNT, count_tokens, encode_texts, measure_overlap
from .overlap_subsets import overlap_subsets
from .sources import describe_split, facts_of, text_hash
from .task_options import option
from .tasks import load_task
from .tokenization import load_tokenizer, tokenizer_hash, train_wordpiece

SHOWN = ("train", "test")
MEASURES = ("jensen_shannon_bits", "type_coverage", "occurrence_coverage")
SOURCE_FACTS = ("source", "config", "revision", "unit")  # facts of the corpus that each published subset repeats


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
    test splits (see `data.overlap`). With `output_dir` they become a data set folder with a card. Raises UserError for
    bad input, before the selection.
    """
    _check(arguments, arguments.corpus_texts)
    destination = open_destination(arguments) if arguments.output_dir is not None else None
    same = ("data_root", "task_seed", "shortfall", "train_per_label", "test_per_label")
    of_task = {name: getattr(arguments, name) for name in same}
    tasks = {name: load_task(name, **of_task) for name in arguments.tasks}
    corpus = load_corpus(
        arguments.corpus, num_texts=arguments.corpus_texts, text_column=arguments.text_column, root=arguments.data_root
    )
    texts = list(corpus["train"]["text"])
    _check(arguments, len(texts))
    if arguments.tokenizer is None:
        tokenizer = train_wordpiece(texts, arguments.vocab_size, arguments.max_length)
    else:
        tokenizer = load_tokenizer(os.path.expandvars(arguments.tokenizer))
    tokens = encode_texts(texts, tokenizer, arguments.max_length)
    results: Json = {"corpus": {"name": portable_path(arguments.corpus), "texts": len(texts)}}
    results["corpus"] |= {"tokens": int(tokens.sum()), "sha256": text_hash(texts)}
    own = portable_path(arguments.tokenizer) if arguments.tokenizer else "WordPiece trained on the corpus"
    results["tokenizer"] = {"name": own, "tokens": len(tokenizer), "sha256": tokenizer_hash(tokenizer)}
    results |= {"subsets": {}, "table": {}}
    configs = {}
    length, source = arguments.max_length, facts_of(corpus["train"])
    for name, task in tasks.items():
        place = portable_path(name)
        options = {"max_length": length, "seed": arguments.seed, "tokens": tokens, "source": source, "task": place}
        subsets = overlap_subsets(corpus["train"], task["train"], tokenizer, arguments.num_texts, **options)
        texts_of = {**subsets, **{split: task[split] for split in SHOWN}}
        counts = {each: count_tokens(encode_texts(rows["text"], tokenizer, length)) for each, rows in texts_of.items()}
        counts["corpus"] = count_tokens(tokens)
        measures = {
            kind: {split: measure_overlap(counts[kind], counts[split], arguments.min_count) for split in SHOWN}
            for kind in (*subsets, "corpus")
        }
        results["subsets"][place] = {kind: facts_of(split) for kind, split in subsets.items()}
        results["table"][place] = measures
        for kind, subset in subsets.items():  # with the same held-out texts, so that losses are comparable
            facts = facts_of(subset) | {key: source[key] for key in SOURCE_FACTS if key in source} | {"corpus": source}
            train = describe_split(subset, **facts, measures=measures[kind], tokenizer=results["tokenizer"])
            splits = datasets.DatasetDict(train=train, validation=corpus["validation"])
            configs[f"{task_stem(name)}-{kind}"] = splits
    if destination is not None:
        write_dataset_folder("overlap", arguments.corpus, configs, *destination)
    return results


def _check(arguments: OverlapArguments, texts: int | None) -> None:
    """Raise UserError for options that cannot work, such as subsets larger than the corpus of so many `texts`."""
    check_range(arguments, 1, math.inf, "num_texts", "min_count", "corpus_texts", "vocab_size")
    check_range(arguments, 3, math.inf, "max_length")
    stems = {task_stem(name).casefold() for name in arguments.tasks}
    if not stems or "" in stems or len(stems) < len(arguments.tasks):
        raise UserError("--tasks names no task, or two by one name: name each task once, with file names that differ.")
    if texts is not None and arguments.num_texts > texts:
        raise UserError(
            f"{arguments.num_texts} texts per subset were asked for, but the corpus has {texts} to choose from: ask "
            f"for at most {texts} (--num-texts)."
        )


def task_stem(name: str) -> str:
    """What a task's configurations are named after: the last part of its name in letters, digits, dots and dashes."""
    return re.sub(r"[^\w.-]+", "-", Path(name).stem).strip("-.")
