"""How much of the tasks' tokens a corpus has, and subsets of it with high, random and low overlap."""

import math
import os
from dataclasses import dataclass

from ..errors import UserError, check_range
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .corpora import load_corpus
from .overlap import MIN_COUNT, count_tokens, encode_texts, measure_overlap
from .overlap_subsets import overlap_subsets
from .sources import facts_of, text_hash
from .task_options import option
from .tasks import load_task
from .tokenization import load_tokenizer, tokenizer_hash, train_wordpiece


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


def overlap(arguments: OverlapArguments) -> Json:
    """Measure token overlap, and choose subsets of a corpus with high, random and low overlap with each task.

    The subsets are chosen by the tasks' training splits (see `data.overlap_subsets`) and measured on both training and
    test splits (see `data.overlap`). Raises UserError for bad input, before the selection.
    """
    _check(arguments, arguments.corpus_texts)
    same = ("data_root", "task_seed", "shortfall", "train_per_label", "test_per_label")
    of_task = {name: getattr(arguments, name) for name in same}
    tasks = {name: load_task(name, **of_task) for name in arguments.tasks}
    corpus = load_corpus(
        arguments.corpus, num_texts=arguments.corpus_texts, text_column=arguments.text_column, root=arguments.data_root
    )["train"]
    texts, length = list(corpus["text"]), arguments.max_length
    _check(arguments, len(texts))
    if arguments.tokenizer is None:
        tokenizer = train_wordpiece(texts, arguments.vocab_size, length)
    else:
        tokenizer = load_tokenizer(os.path.expandvars(arguments.tokenizer))
    tokens = encode_texts(texts, tokenizer, length)
    own = portable_path(arguments.tokenizer) if arguments.tokenizer else "WordPiece trained on the corpus"
    results: Json = {"corpus": {"name": portable_path(arguments.corpus), "texts": len(texts)}}
    results["corpus"] |= {"tokens": int(tokens.sum()), "sha256": text_hash(texts)}
    results["tokenizer"] = {"name": own, "tokens": len(tokenizer), "sha256": tokenizer_hash(tokenizer)}
    results |= {"subsets": {}, "table": {}}
    for name, task in tasks.items():
        options: Json = {"max_length": length, "seed": arguments.seed, "tokens": tokens, "task": portable_path(name)}
        subsets = overlap_subsets(corpus, task["train"], tokenizer, arguments.num_texts, **options)
        texts_of = {**subsets, "train": task["train"], "test": task["test"]}
        counts = {each: count_tokens(encode_texts(rows["text"], tokenizer, length)) for each, rows in texts_of.items()}
        counts["corpus"] = count_tokens(tokens)
        results["table"][options["task"]] = {
            kind: {
                split: measure_overlap(counts[kind], counts[split], arguments.min_count) for split in ("train", "test")
            }
            for kind in (*subsets, "corpus")
        }
        results["subsets"][options["task"]] = {kind: facts_of(split) for kind, split in subsets.items()}
    return results


def _check(arguments: OverlapArguments, texts: int | None) -> None:
    """Raise UserError for options that cannot work, such as subsets larger than the corpus of so many `texts`."""
    check_range(arguments, 1, math.inf, "num_texts", "min_count", "corpus_texts", "vocab_size")
    check_range(arguments, 3, math.inf, "max_length")
    if not arguments.tasks:
        raise UserError("--tasks names no task: name one.")
    if texts is not None and arguments.num_texts > texts:
        raise UserError(
            f"{arguments.num_texts} texts per subset were asked for, but the corpus has {texts} to choose from: ask "
            f"for at most {texts} (--num-texts)."
        )
