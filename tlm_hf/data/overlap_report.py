"""`tlm overlap`: how well a pre-training corpus covers the tokens of tasks."""

import math
from dataclasses import dataclass

from ..errors import UserError, check_range
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .corpora import load_corpus
from .kinds import as_one_text, texts_of
from .overlap import MIN_COUNT, count_tokens, encode_texts, measure_overlap
from .task_options import option
from .tasks import load_task
from .tokenization import load_tokenizer, train_wordpiece


@dataclass
class OverlapArguments:
    """Options of `tlm overlap`."""

    corpus: str = option("wikipedia", "docstrings, wikipedia, a file or folder, or a Hub data set.")
    tasks: list[str] = option(lambda: ["ag_news"], "Tasks: known names, files, folders or Hub data sets.")
    text_column: str | None = option(None, "Column of the tasks' texts (default: text, or the only one of strings).")
    num_texts: int | None = option(None, "Texts of the corpus (default: all).")
    tokenizer: str | None = option(None, "Folder or Hub name; default: a WordPiece trained on the corpus.")
    vocab_size: int = option(8000, "Size of the trained WordPiece.")
    max_length: int = option(128, "Tokens of each text that count, special tokens included.")
    min_count: int = option(MIN_COUNT, "How often the corpus must have a token to cover it.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")


def overlap(arguments: OverlapArguments) -> Json:
    """Measure the token overlap of a corpus's training texts with the training and test texts of tasks.

    Returns:
        `corpus` (name, texts, tokens) and `table`: by task and split the measures of `data.overlap.Overlap`.

    Raises:
        UserError: bad input, before any text is tokenised.
    """
    check_range(arguments, 1, math.inf, "num_texts", "min_count", "vocab_size")
    check_range(arguments, 3, math.inf, "max_length")
    if not arguments.tasks:
        raise UserError("--tasks names no task: name one.")
    options: Json = {"root": arguments.data_root, "text_column": arguments.text_column, "shortfall": "take"}
    tasks = {name: load_task(name, **options) for name in arguments.tasks}
    texts = load_corpus(arguments.corpus, num_texts=arguments.num_texts, root=arguments.data_root)["train"]["text"][:]
    length = arguments.max_length
    chosen = arguments.tokenizer
    tokenizer = load_tokenizer(chosen) if chosen else train_wordpiece(texts, arguments.vocab_size, length)
    corpus = count_tokens(encode_texts(texts, tokenizer, length))
    table: Json = {portable_path(name): {} for name in tasks}
    for name, task in tasks.items():
        for split in ("train", "test"):
            counts = count_tokens(encode_texts(as_one_text(texts_of(task[split])), tokenizer, length))
            table[portable_path(name)][split] = measure_overlap(corpus, counts, arguments.min_count)
    name = portable_path(arguments.corpus)
    return {"corpus": {"name": name, "texts": len(texts), "tokens": int(corpus.sum())}, "table": table}
