"""Texts tokenised once: their token ids in the cache of `datasets`, in a file named by what decides them."""

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .sources import BATCH, cached_rows, each_text, text_hash
from .tokenization import encode_whole, tokenizer_hash

FORMAT = 4  # raise it when the same texts and tokenizer would give other tokens or another layout
SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32())})


class TokenTable(Sequence[np.ndarray]):
    """Token ids of n texts, mapped from a file; `table[i]` is int32 (tokens of text i,), read only.

    Attributes:
        lengths: tokens of each text, int32 (n,).
    """

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows
        chunks = rows.data.column("input_ids").chunks
        self._ids = [chunk.flatten().to_numpy() for chunk in chunks]
        self._offsets = [chunk.offsets.to_numpy() - chunk.offsets[0].as_py() for chunk in chunks]
        self._starts = np.cumsum([0, *map(len, chunks)]).tolist()
        self.lengths = np.concatenate([np.zeros(0, np.int32), *map(np.diff, self._offsets)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        """Token ids of one text."""
        row = range(len(self))[index]
        chunk = bisect.bisect_right(self._starts, row) - 1
        start, end = self._offsets[chunk][row - self._starts[chunk] :][:2]
        return self._ids[chunk][start:end]

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process maps the file itself instead of being sent the tokens."""
        return TokenTable, (self.rows,)


def tokenize_once(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    text_column: str = "text",
    cache_dir: str | Path | None = None,
) -> TokenTable:
    """Token ids of every text as `encode_whole` gives them, from the cache where they are in it.

    Args:
        dataset: n texts, at least one.
        tokenizer: a fast tokenizer.
        text_column: column that holds the text.
        cache_dir: folder of the files; None for the one in the cache of `datasets`.

    Raises:
        UserError: a cache that cannot be written.
    """
    decisive = {
        "format": FORMAT,
        "texts_sha256": text_hash(dataset[text_column]),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "split_special_tokens": tokenizer.split_special_tokens,
    }
    root = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "tlm_hf" / "tokens").expanduser()
    name = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    encode = encode_whole(tokenizer)
    hide = True if datasets.are_progress_bars_disabled() else None  # None: shown where there is a terminal
    column = dataset.with_format(None)[text_column]
    texts = iter(tqdm(each_text(column), "Tokenizing", len(column), disable=hide, delay=1))

    def batches() -> Iterator[pa.RecordBatch]:
        while batch := list(itertools.islice(texts, BATCH)):
            yield pa.record_batch([pa.array(encode(batch), SCHEMA.types[0])], schema=SCHEMA)

    return TokenTable(cached_rows(root / f"{name}.arrow", SCHEMA, batches()))
