"""What a model of limited length reads of texts: their tokens, windows of them, and how much of the texts is cut."""

import hashlib
import itertools
import json
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from .kinds import as_one_text, texts_of
from .sources import in_batches, mapped, text_hash
from .tokenization import encode_whole, tokenizer_hash

FORMAT = 5  # raise it when the same texts and tokenizer would give other tokens or another layout
SHORT = 8  # texts of fewer tokens, special tokens included, are short: alone they would often have nothing to predict
SPECIAL = 2  # [CLS] and [SEP] of a window
LONGEST_DEFAULT = 512
MOST_UNKNOWN = 0.01  # share of [UNK] above which a tokenizer does not suit a text
logger = logging.getLogger(__name__)


class TokenTable(Sequence[np.ndarray]):
    """Token ids of n texts, mapped from a file: `table[i]` is int32 (tokens,), read only; `lengths` is int32 (n,)."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows, self._ids = rows, rows.data.column("input_ids")
        self.lengths = pc.list_value_length(self._ids).to_numpy()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        """Token ids of one text."""
        return self._ids[range(len(self))[index]].values.to_numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process maps the file itself instead of being sent the tokens."""
        return TokenTable, (self.rows,)


def tokenize_once(dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase) -> TokenTable:
    """Token ids of every `text` as `encode_whole` gives them, from the cache of `datasets` where they are in it."""
    encode, rows = encode_whole(tokenizer), dataset.with_format(None).select_columns(["text"])
    decisive = [FORMAT, text_hash(rows["text"]), tokenizer_hash(tokenizer), tokenizer.split_special_tokens]
    name = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:32]
    features = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))})
    file = Path(datasets.config.HF_DATASETS_CACHE, "tlm_hf", "tokens", f"{name}.arrow")
    options = {"features": features, "desc": "Tokenizing", "new_fingerprint": name, "cache_file_name": str(file)}
    return TokenTable(mapped(rows, lambda batch: {"input_ids": encode(batch["text"])}, **options))


@dataclass(frozen=True)
class TextFacts:
    """What a tokenizer and a limit of `max_length` tokens make of texts; lengths include special tokens."""

    texts: int
    max_length: int
    longer: int  # texts of more than `max_length` tokens
    short: int  # texts of fewer than `SHORT`
    share_beyond: float  # of all tokens, those beyond the limit
    percentile_95: int  # tokens that 95% of the texts do not exceed
    unknown_share: float  # of [UNK] among the tokens without special ones

    @classmethod
    def measure(cls, lengths: np.ndarray, max_length: int, unknown: int) -> "TextFacts":
        """From the tokens of each text, int (texts,), and the number of [UNK]."""
        total, beyond = int(lengths.sum()), int((lengths - max_length).clip(min=0).sum())
        percentile = int(np.percentile(lengths, 95, method="higher")) if len(lengths) else 0
        longer, short = int((lengths > max_length).sum()), int((lengths < SHORT).sum())
        share, unknown_share = beyond / max(1, total), unknown / max(1, total - SPECIAL * len(lengths))
        return cls(len(lengths), max_length, longer, short, share, percentile, unknown_share)

    @classmethod
    def of_texts(cls, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> "TextFacts":
        """The facts of texts, tokenized whole."""
        encode, sizes, unknown = encode_whole(tokenizer), array("q"), 0
        for ids in itertools.chain.from_iterable(map(encode, in_batches(texts))):
            sizes.append(len(ids) + SPECIAL)
            unknown += ids.count(tokenizer.unk_token_id)
        return cls.measure(np.array(sizes, dtype=np.int64), max_length, unknown)

    @classmethod
    def of_task(
        cls, task: datasets.DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int, limit: int
    ) -> "TextFacts":
        """Of the texts of all splits, with warnings of what is cut or unknown; `limit` as of `warn_of_cut`."""
        texts = as_one_text([text for split in task.values() for text in texts_of(split)])
        facts = cls.of_texts(texts, tokenizer, max_length)
        facts.warn_of_cut(limit)
        facts.warn_of_unknown()
        return facts

    def warn_of_cut(self, limit: int) -> None:
        """Say how many texts are cut, and the remedy; `limit` is the longest `max_length` that the encoder allows."""
        enough = min(self.percentile_95, LONGEST_DEFAULT)
        own = f"an encoder pre-trained with --max-length {max(enough, self.max_length + 1)}"
        remedy = own if self.max_length >= limit else f"--max-length {min(enough, limit)}"
        if self.longer:
            logger.warning(f"{self._longer('cut')}: {remedy} reads more of them.")

    def say_windows(self, split: bool, windows: int) -> None:
        """Log what pre-training makes of long and short texts: so many windows."""
        long_ones, short_ones = ("split", "joined") if split else ("cut", "left out")
        if self.longer or self.short:
            short = f"{self.short:,} have under {SHORT} tokens and are {short_ones}"
            logger.info(f"{self._longer(long_ones)}, {short}: {windows:,} windows.")

    def _longer(self, fate: str) -> str:
        texts = f"{self.longer:,} of {self.texts:,} texts are longer than {self.max_length} tokens and are {fate}"
        return f"{texts} ({self.share_beyond:.1%} of all tokens{'' if fate == 'cut' else ' are beyond'})"

    def warn_of_unknown(self) -> None:
        """Say how much is [UNK] where it is more than `MOST_UNKNOWN`."""
        if self.unknown_share > MOST_UNKNOWN:
            logger.warning(
                f"{self.unknown_share:.1%} of the tokens are [UNK], which no model can tell apart: train with a larger "
                "--vocab-size, or take a tokenizer or an encoder of the text's language."
            )


class Windows(Sequence[np.ndarray]):
    """The rows that pre-training sees: `windows[i]` is [CLS], then pieces of texts, each with a [SEP]; int (tokens,).

    With `split` a text of more than `max_length` tokens becomes windows of nearly equal length, and texts under
    `shortest` are joined in their order; without, the former are cut and the latter left out. `lengths` are those of
    the windows, int64 (windows,).
    """

    def __init__(
        self, tokens: TokenTable, tokenizer: Any, max_length: int, *, split: bool = True, shortest: int = SHORT
    ) -> None:
        self.tokens, self.opening, self.separator = tokens, tokenizer.cls_token_id, tokenizer.sep_token_id
        room, sizes = max_length - SPECIAL, tokens.lengths.astype(np.int64)
        is_short = sizes + SPECIAL < shortest
        texts = np.flatnonzero(~is_short)
        ends = sizes[texts] if split else sizes[texts].clip(max=room)
        counts = np.maximum(1, -(-ends // room))  # windows of each text
        numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of each window in its text
        texts, ends, counts = (np.repeat(each, counts) for each in (texts, ends, counts))
        long = np.stack([texts, numbers * ends // counts, (numbers + 1) * ends // counts], axis=1)
        joined, openers, filled = array("q"), array("q"), max_length  # so the first text opens a window
        for text in np.flatnonzero(is_short & (sizes > 0)).tolist() if split else ():
            size = int(sizes[text])
            if filled + size + 1 > max_length:
                openers.append(len(long) + len(joined) // 3)
                filled = 1  # [CLS]; each text brings its [SEP]
            joined.extend((text, 0, size))
            filled += size + 1
        # Text, start and stop of each piece; each window's first piece, and the end.
        self._pieces = np.concatenate([long, np.array(joined, dtype=np.int64).reshape(-1, 3)])
        self._firsts = np.array([*range(len(long)), *openers, len(self._pieces)], dtype=np.int64)
        stops = np.concatenate([[0], np.cumsum(self._pieces[:, 2] - self._pieces[:, 1] + 1)])
        self.lengths = 1 + np.diff(stops[self._firsts])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
        """Token ids of one window; of a slice, their list."""
        window = range(len(self))[index]
        if isinstance(window, range):
            return [self[each] for each in window]
        first, last = self._firsts[window : window + 2]
        row = np.full(self.lengths[window], self.separator, dtype=np.int64)  # pieces leave the places between them
        row[0], place = self.opening, 1
        for text, start, stop in self._pieces[first:last].tolist():
            row[place : place + stop - start] = self.tokens[text][start:stop]
            place += stop - start + 1
        return row

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs: int64 (vocab_size,)."""
        total = np.zeros(vocab_size, dtype=np.int64)
        for start in range(0, len(self), 1000):
            total += np.bincount(np.concatenate(self[start : start + 1000]), minlength=vocab_size)
        return total
