"""Texts tokenised once: token ids in a memory-mapped Arrow file, named by a fingerprint of what made them.

The file is `<datasets cache>/tlm_hf/tokens/<fingerprint>.arrow` (HF_HOME and HF_DATASETS_CACHE move it), with its
SHA-256 beside it. It is written under a temporary name, flushed and renamed, and its SHA-256 is checked whenever it is
opened, so a half-written or damaged one is made again. Memory does not grow with the corpus. Where nothing can be
written, the tokens are kept in memory.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from ..runs.atomic_files import file_hash, flush, sole_writer, write_text
from .sources import text_hash
from .tokenization import TextColumn, encoder_of, tokenizer_hash

logger = logging.getLogger(__name__)

FORMAT = 2
"""Raise it when the same texts, tokenizer and length would give other tokens or another layout."""
FEATURES = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))})


class TokenTable(Sequence[np.ndarray]):
    """Token ids of n texts, mapped from a file or in memory; `table[i]` is int32 (tokens of text i,), read only.

    Args:
        table: Arrow table with the column `input_ids`, lists of int32.
        path: the file that it is mapped from; None when it is in memory.
        rows: int64, the texts of `table` that this view has, in its order; None for all.

    Attributes:
        lengths: tokens of each text, special tokens included, int32 (n,).
    """

    def __init__(self, table: pa.Table, path: Path | None = None, rows: np.ndarray | None = None) -> None:
        self.table, self.path, self.rows = table, path, rows
        chunks = table.column("input_ids").chunks
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._ids = [chunk.values.to_numpy() for chunk in chunks]
        self._ends = np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64)
        lengths = np.concatenate([np.zeros(0, np.int32), *(np.diff(offsets) for offsets in self._offsets)])
        self.lengths: np.ndarray = lengths if rows is None else lengths[rows]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        """Token ids of one text; a slice gives a `TokenTable`."""
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no text {index}: the table has {len(self)}.")
        row = int(index) % len(self) if self.rows is None else int(self.rows[index])
        chunk = int(np.searchsorted(self._ends, row, side="right"))
        offsets = self._offsets[chunk]
        within = row - int(self._ends[chunk]) + len(offsets) - 1
        return self._ids[chunk][offsets[within] : offsets[within + 1]]

    def select(self, indices: np.ndarray) -> "TokenTable":
        """View of the texts `indices` (int64) in that order; nothing is copied."""
        rows = np.asarray(indices, dtype=np.int64)
        return TokenTable(self.table, self.path, rows if self.rows is None else self.rows[rows])

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs: int64 (vocab_size,)."""
        total = np.zeros(vocab_size, dtype=np.int64)
        for start in range(0, len(self), 1000):
            total += np.bincount(np.concatenate(list(self[start : start + 1000])), minlength=vocab_size)
        return total

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process maps the file itself instead of being sent the tokens."""
        if self.path is None:
            return TokenTable, (self.table, None, self.rows)
        return _open_view, (self.path, self.rows)


def _open_view(path: Path, rows: np.ndarray | None = None) -> TokenTable:
    return TokenTable(pa.ipc.open_stream(pa.memory_map(str(path))).read_all(), path, rows)


def tokenize_once(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    text_column: str = "text",
    cache_dir: str | Path | None = None,
) -> TokenTable:
    """Token ids of every text, from the cache, or tokenised now and kept there.

    Of several processes one tokenises and the others wait for it.

    Args:
        dataset: n texts.
        tokenizer: a fast tokenizer; its own state (truncation, padding) is neither used nor changed.
        max_length: tokens of a text at most, special tokens included; longer texts are cut.
        text_column: column that holds the text.
        cache_dir: folder of the caches; None for the one in the cache of `datasets`.

    Returns:
        n arrays of token ids, the same as `tokenizer(text, truncation=True, max_length=max_length)` gives.

    Raises:
        UserError: a row without text.
    """
    texts = TextColumn(dataset, text_column)
    root = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "tlm_hf" / "tokens").expanduser()
    decisive = {
        "format": FORMAT,
        "texts_sha256": text_hash(texts),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "max_length": max_length,
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": tokenizer.split_special_tokens,
    }
    path = root / f"{hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()}.arrow"
    table = _open(path)
    if table is not None:
        return table
    try:
        root.mkdir(parents=True, exist_ok=True)
        with sole_writer(path) as alone:
            table = _open(path)  # another process may have made it meanwhile
            if table is None:
                draft = path.with_suffix(".partial" if alone else f".{os.getpid()}.partial")
                _write(path, draft, _batches(texts, tokenizer, max_length))
                return _open_view(path)
            return table
    except OSError as error:
        logger.warning(
            "No token cache can be written under %s (%s): the tokens are kept in memory (set HF_HOME to a folder with "
            "room to keep them).",
            root,
            error.strerror or error,
        )
    return TokenTable(pa.Table.from_batches(_batches(texts, tokenizer, max_length), schema=FEATURES.arrow_schema))


def _batches(texts: TextColumn, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[pa.RecordBatch]:
    """Record batches of `input_ids`."""
    encode = encoder_of(tokenizer, max_length)
    for batch in texts.batches():
        ids, lengths = encode(batch)
        offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
        yield pa.RecordBatch.from_arrays([lists], schema=FEATURES.arrow_schema)


def _write(path: Path, draft: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write `draft`, flush it and rename it to `path`; nothing remains of a failed attempt."""
    try:
        with draft.open("wb") as file, pa.ipc.new_stream(file, FEATURES.arrow_schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        flush(draft)
        write_text(path.with_suffix(".sha256"), file_hash(draft))
        draft.replace(path)
        flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _open(path: Path) -> TokenTable | None:
    """The cached table; None where there is none or it is not whole."""
    if not path.is_file():
        return None
    try:
        if file_hash(path) == path.with_suffix(".sha256").read_text(encoding="utf-8"):
            return _open_view(path)
    except OSError as error:
        logger.debug("%s: %s", path, error)
    logger.warning("The token cache %s is damaged and is made again.", path)
    return None
