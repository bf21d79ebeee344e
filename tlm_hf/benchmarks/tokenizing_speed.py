"""Speed of tokenizing into the token cache, against the bare `tokenizers` library.

The bare side has all texts in a Python list and keeps no token ids. Ours starts at the memory-mapped table and ends
with the cache on disk, opened.
"""

import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer

from ..data.sources import data_root, read_table
from ..data.token_cache import tokenize_once
from ..data.tokenization import TEXTS_AT_ONCE, load_tokenizer
from ..errors import UserError, check_range
from ..runs.atomic_files import Json
from .measure import alternating_seconds, finish


@dataclass
class TokenizingSpeedArguments:
    """Options of `tlm benchmark tokenizing`."""

    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})
    num_texts: int = field(default=100_000, metadata={"help": "Wikipedia paragraphs."})
    max_length: int = field(default=128, metadata={"help": "Tokens per text."})
    repeats: int = field(default=3, metadata={"help": "Timed rounds (medians are taken)."})
    json: str | None = field(default=None, metadata={"help": "File for the results."})


def benchmark_tokenizing(arguments: TokenizingSpeedArguments) -> Json:
    """Time the token cache against a bare `encode_batch` on the same paragraphs.

    Returns:
        `ratio`, speed of ours over that of the bare library; `ratio_from_the_cache`, the same when the tokens are
        cached already; `median_seconds` and `texts_per_second`.

    Raises:
        UserError: a number out of range, or no folder of real text.
    """
    check_range(arguments, 4, 10**8, "num_texts")
    check_range(arguments, 3, 512, "max_length")
    check_range(arguments, 1, 1000, "repeats")
    folder = data_root(arguments.data_root)
    if folder is None:
        raise UserError("There is no real text to tokenize: set TLM_DATA or --data-root.")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    dataset = read_table(str(folder / "wikipedia"))["train"]
    dataset = dataset.select(range(min(len(dataset), arguments.num_texts)))
    tokenizer = load_tokenizer(str(folder / "vocab" / "vocab.txt"))
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.enable_truncation(arguments.max_length)
    texts = dataset["text"][:]

    def bare() -> None:
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            backend.encode_batch(texts[start : start + TEXTS_AT_ONCE])

    def ours() -> None:
        with TemporaryDirectory() as cache:
            tokenize_once(dataset, tokenizer, arguments.max_length, cache_dir=cache)

    with TemporaryDirectory() as cache:

        def cached() -> None:
            tokenize_once(dataset, tokenizer, arguments.max_length, cache_dir=Path(cache))

        seconds = alternating_seconds({"bare": bare, "ours": ours, "ours_again": cached}, arguments.repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    results = {
        "benchmark": "tokenizing",
        "ratio": medians["bare"] / medians["ours"],
        "ratio_from_the_cache": medians["bare"] / medians["ours_again"],
        "median_seconds": medians,
        "texts_per_second": {name: len(texts) / value for name, value in medians.items()},
        "texts": len(texts),
        "seconds": seconds,
    }
    return finish(arguments, results)
