"""Texts tokenised once: token ids in a memory-mapped Arrow table, kept under a fingerprint of what made them.

A cache lies in `<datasets cache>/tlm_hf/tokens/<fingerprint>` (so HF_HOME and HF_DATASETS_CACHE move it). It is
written into a temporary folder beside it, flushed, and renamed, and its SHA-256 is checked whenever it is opened: a
half-written or damaged one is never used but made again. Texts are read, tokenised and written a few thousand at a
time, so memory does not grow with the corpus. Where nothing can be written the tokens are kept in memory.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from ..runs.atomic_files import file_hash, flush, sole_writer, write_json
from .sources import text_hash
from .tokenization import TextColumn, encoder_of, tokenizer_hash

logger = logging.getLogger(__name__)
COUNTED_AT_ONCE = 1000
"""Texts whose tokens are joined for counting."""
FORMAT = 1
"""Raise it when the same texts, tokenizer and length would give other tokens or another layout."""
TOKENS_FILE, FACTS_FILE = "tokens.arrow", "facts.json"
FEATURES = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))})


class TokenTable(Sequence[np.ndarray]):
    """Token ids of n texts, read where they lie (on disk, mapped into memory); `table[i]` is int32 (tokens of text i,).

    Args:
        table: Arrow table with the column `input_ids`, lists of int32.
        path: the file that it is mapped from; None when it lies in memory.
        rows: int64, the texts of `table` that this view has, in its order; None for all.
    """

    def __init__(self, table: pa.Table, path: Path | None = None, rows: np.ndarray | None = None) -> None:
        self.table, self.path, self.rows = table, path, rows
        chunks = table.column("input_ids").chunks
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self._ids = [chunk.values.to_numpy() for chunk in chunks]
        self._ends = np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64)
        lengths = np.concatenate([np.zeros(0, np.int32), *(np.diff(offsets) for offsets in self._offsets)])
        self.lengths: np.ndarray = lengths if rows is None else lengths[rows]
        """Tokens of each text, special tokens included: int32 (n,)."""

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        """Token ids of one text, int32, read only; a slice gives a `TokenTable`."""
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
        """How often each token stands in the texts: int64 (vocab_size,)."""
        total = np.zeros(vocab_size, dtype=np.int64)
        for start in range(0, len(self), COUNTED_AT_ONCE):
            rows = [self[index] for index in range(start, min(start + COUNTED_AT_ONCE, len(self)))]
            total += np.bincount(np.concatenate(rows), minlength=vocab_size)
        return total

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process maps the file itself instead of being sent the tokens."""
        return (
            (_open_view, (self.path, self.rows))
            if self.path is not None
            else (TokenTable, (self.table, None, self.rows))
        )


def _open_view(path: Path, rows: np.ndarray | None) -> TokenTable:
    return TokenTable(pa.ipc.open_stream(pa.memory_map(str(path))).read_all(), path, rows)


def cache_root() -> Path:
    """Folder of all token caches: `tlm_hf/tokens` in the cache of `datasets` (HF_DATASETS_CACHE, HF_HOME)."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "tlm_hf" / "tokens"


def decisive_facts(texts: TextColumn, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    """All that decides the tokens: the texts in order, the tokenizer, the length, and our format's number."""
    return {
        "format": FORMAT,
        "texts_sha256": text_hash(texts),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "max_length": max_length,
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": tokenizer.split_special_tokens,
    }


def tokenize_once(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    text_column: str = "text",
    cache_dir: str | Path | None = None,
) -> TokenTable:
    """Token ids of every text, from the cache, or tokenised now and kept there.

    Several processes may ask at once: one tokenises, the others wait for it (where locks are possible; else each does,
    and the first to finish is kept).

    Args:
        dataset: n texts.
        tokenizer: a fast tokenizer; its own state (truncation, padding) is neither used nor changed.
        max_length: tokens of a text at most, special tokens included; longer texts are cut.
        text_column: column that holds the text.
        cache_dir: folder of the caches in place of `cache_root()`.

    Returns:
        n arrays of token ids, the same as `tokenizer(text, truncation=True, max_length=max_length)` gives.

    Raises:
        UserError: a row without text.
    """
    texts = TextColumn(dataset, text_column)
    root = cache_root() if cache_dir is None else Path(cache_dir).expanduser()
    facts = decisive_facts(texts, tokenizer, max_length)
    folder = root / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    table = _open(folder)
    if table is not None:
        return table
    try:
        root.mkdir(parents=True, exist_ok=True)
        with sole_writer(folder) as alone:
            table = _open(folder)  # another process may have made it meanwhile
            if table is None:
                if alone:
                    for left in root.glob(f".{folder.name}.*.partial"):  # of a process that was killed
                        shutil.rmtree(left, ignore_errors=True)
                _write(folder, facts, _batches(texts, tokenizer, max_length))
                table = _open(folder)
    except OSError as error:
        reason = error.strerror or (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
        logger.warning(
            "No token cache can be written under %s (%s): the tokens are kept in memory (set HF_HOME to a folder with "
            "room to keep them).", root, reason,
        )  # fmt: skip
    if table is not None:
        return table
    return TokenTable(pa.Table.from_batches(_batches(texts, tokenizer, max_length), schema=FEATURES.arrow_schema))


def _batches(texts: TextColumn, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[pa.RecordBatch]:
    """Record batches of `input_ids`."""
    encode = encoder_of(tokenizer, max_length)
    for batch in texts.batches():
        ids, lengths = encode(batch)
        offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        yield pa.RecordBatch.from_arrays(
            [pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))], schema=FEATURES.arrow_schema
        )


def _write(folder: Path, facts: dict[str, Any], batches: Iterator[pa.RecordBatch]) -> None:
    """Write to a temporary folder, flush it and rename it to `folder`; nothing is left of a failed attempt."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        rows = tokens = 0
        with (partial / TOKENS_FILE).open("wb") as file:
            with pa.ipc.new_stream(file, FEATURES.arrow_schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
                    rows, tokens = rows + len(batch), tokens + len(batch.column(0).values)
            file.flush()
            os.fsync(file.fileno())
        found = {"rows": rows, "tokens": tokens, "sha256": file_hash(partial / TOKENS_FILE)}
        write_json(partial / FACTS_FILE, facts | found)
        try:
            partial.rename(folder)
        except OSError:
            if _open(folder) is not None:  # another process was first
                return
            # A damaged one lies there: out of the way under a name of its own, so that nobody opens half of it.
            shutil.rmtree(folder.rename(partial.with_suffix(".damaged.partial")), ignore_errors=True)
            partial.rename(folder)
        flush(folder.parent)  # the new name itself
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(folder: Path) -> TokenTable | None:
    """The cache in `folder`; None where there is none, or one that is not whole."""
    path = folder / TOKENS_FILE
    try:
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT or file_hash(path) != facts["sha256"]:
            raise ValueError("another content")
        table = _open_view(path, None)
        if len(table) != facts["rows"]:
            raise ValueError("another number of rows")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError):  # pyarrow's errors are ValueErrors and OSErrors
        logger.warning("The token cache %s is damaged and is made again.", folder)
        return None
    return table
