"""Texts tokenised once: token ids in a memory-mapped file, named by a fingerprint of what made them.

`<datasets cache>/tlm_hf/tokens/<fingerprint>/` (HF_HOME and HF_DATASETS_CACHE move it) holds the ids of all texts in a
row and their lengths. It is written under another name, flushed and renamed, so a half-written cache is never read.
"""

import hashlib
import itertools
import json
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from ..runs.atomic_files import flush, flush_tree, sole_writer
from .sources import text_hash
from .tokenization import TextColumn, tokenizer_hash

FORMAT = 3  # raise it when the same texts, tokenizer and length would give other tokens or another layout
IDS, LENGTHS = "ids.int32", "lengths.npy"


class TokenTable(Sequence[np.ndarray]):
    """Token ids of n texts, mapped from a file; `table[i]` is int32 (tokens of text i,), read only.

    Args:
        path: file of int32 ids.
        lengths: tokens of each text, special tokens included, int32 (n,).
        starts: places of the texts in the file, int64 (n,); None where they follow each other.
    """

    def __init__(self, path: Path, lengths: np.ndarray, starts: np.ndarray | None = None) -> None:
        self.path, self.lengths = path, lengths
        self.starts = np.cumsum(lengths, dtype=np.int64) - lengths if starts is None else starts
        self._ids = np.asarray(np.memmap(path, np.int32, mode="r"))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        """Token ids of one text; a slice gives a `TokenTable`."""
        if isinstance(index, slice):
            return TokenTable(self.path, self.lengths[index], self.starts[index])
        return self._ids[self.starts[index] : self.starts[index] + self.lengths[index]]

    def select(self, indices: np.ndarray) -> "TokenTable":
        """View of the texts `indices` (int64) in that order; no token is copied."""
        return TokenTable(self.path, self.lengths[indices], self.starts[indices])

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs: int64 (vocab_size,)."""
        total = np.zeros(vocab_size, dtype=np.int64)
        for start in range(0, len(self), 1000):
            total += np.bincount(np.concatenate(list(self[start : start + 1000])), minlength=vocab_size)
        return total

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process maps the file itself instead of being sent the tokens."""
        return TokenTable, (self.path, self.lengths, self.starts)


def tokenize_once(
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    text_column: str = "text",
    cache_dir: str | Path | None = None,
) -> TokenTable:
    """Token ids of every text, from the cache, or tokenised now by one process while the others wait for it.

    The ids are those of `tokenizer(text, truncation=True, max_length=max_length)`.

    Args:
        dataset: n texts, at least one.
        tokenizer: a fast tokenizer; its own truncation and padding are neither used nor changed.
        max_length: tokens of a text at most, special tokens included; longer texts are cut.
        text_column: column that holds the text.
        cache_dir: folder of the caches; None for the one in the cache of `datasets`.

    Raises:
        UserError: a row without text, or a cache that cannot be written.
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
    folder = root / hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    if not _is_whole(folder):
        draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
        try:
            root.mkdir(parents=True, exist_ok=True)
            with sole_writer(folder) as is_alone:
                if not _is_whole(folder):  # another process may have made it meanwhile
                    for left in root.glob(f"{folder.name}.*.partial") if is_alone else ():  # of a killed process
                        shutil.rmtree(left, ignore_errors=True)
                    shutil.rmtree(folder, ignore_errors=True)
                    draft.mkdir()
                    _write(draft, texts, tokenizer, max_length)
                    draft.replace(folder)
                    flush(root)
        except OSError as error:
            if not _is_whole(folder):  # without locks another process may have been first
                reason = error.strerror
                raise UserError(
                    f"The token cache {root} cannot be written ({reason}): free space, or set HF_DATASETS_CACHE."
                ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return TokenTable(folder / IDS, np.load(folder / LENGTHS))


def _is_whole(folder: Path) -> bool:
    """Whether the cache has as many ids as its lengths say."""
    try:
        count = int(np.load(folder / LENGTHS).sum(dtype=np.int64))
        return (folder / IDS).stat().st_size == count * np.dtype(np.int32).itemsize
    except (OSError, ValueError, EOFError):
        return False


def _write(folder: Path, texts: TextColumn, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Tokenise batch by batch with the `tokenizers` library, and flush the files to disk."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = tokenizer.split_special_tokens
    backend.no_padding()
    backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
    lengths: list[int] = []
    with (folder / IDS).open("wb") as file:
        for batch in texts.batches():
            rows = [encoding.ids for encoding in backend.encode_batch_fast(batch)]
            lengths += map(len, rows)
            file.write(np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32).tobytes())
    np.save(folder / LENGTHS, np.array(lengths, dtype=np.int32))
    flush_tree(folder)
