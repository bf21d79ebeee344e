"""Tokenizers (always a stock `BertTokenizer`), and what a model of limited length reads: tokens and windows."""

import hashlib
import itertools
import json
import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from ..errors import UserError, refusing
from ..runs.atomic_files import Json
from .embedded import model_folder
from .kinds import PAIR, as_one_text, texts_of
from .sources import each_text, in_batches, mapped, text_hash

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LARGEST_ALPHABET = 1000  # letters at most, unless more are needed; then as many as the vocabulary has room for
RAREST_LETTERS = 1 / 2000
MOST_FOREIGN_LETTERS = 1 / 200  # outside a-z, for English-like text (English Wikipedia: 1 in 3,700; German: 1 in 60)
FORMAT = 5  # raise it when the same texts and tokenizer would give other tokens or another layout
SHORT = 8  # texts of fewer tokens, special tokens included, are short: alone they would often have nothing to predict
SPECIAL = 2  # [CLS] and [SEP] of a window
LONGEST_DEFAULT = 512
MOST_UNKNOWN = 0.01  # share of [UNK] above which a tokenizer does not suit a text
logger = logging.getLogger(__name__)


def train_wordpiece(
    texts: Iterable[str], vocab_size: int, max_length: int = 512, cased: bool = False, keep_accents: bool | None = None
) -> PreTrainedTokenizerBase:
    """Train a WordPiece vocabulary; the same texts give the same ids in every process (compare tokenizers#1794).

    The texts are read three times. Special tokens and letters are always among the `vocab_size` tokens; `max_length`
    becomes the `model_max_length`. By default accents (and vowel signs) go if text is English-like and uncased.
    """
    corpus = list(texts) if isinstance(texts, Iterator) else texts
    letters: Counter[str] = Counter()
    for text in each_text(corpus):
        letters.update(text)
    if keep_accents is None:
        keep_accents = cased or not _is_english_like(letters)
    strip_accents = None if keep_accents is cased else not keep_accents  # None is BERT's rule: with lower-casing
    normalizer = normalizers.BertNormalizer(lowercase=not cased, strip_accents=strip_accents)
    alphabet = _choose_alphabet(letters, normalizer, vocab_size)

    def train(size: int, first_tokens: list[str]) -> dict[str, int]:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        options: Json = {"special_tokens": first_tokens, "min_frequency": 2, "show_progress": False}
        options |= {"initial_alphabet": alphabet, "limit_alphabet": len(alphabet)}
        tokenizer.train_from_iterator(each_text(corpus), trainers.WordPieceTrainer(vocab_size=size, **options))
        return tokenizer.get_vocab()

    # The trainer numbers letters inside words ("##a") as a randomly seeded hash table yields them, and breaks ties
    # between pairs by these numbers. So a first run finds the letters, and the second gets them in a fixed order.
    pieces = sorted(set(train(0, list(SPECIAL_TOKENS))) - set(SPECIAL_TOKENS))
    vocabulary = train(vocab_size, [*SPECIAL_TOKENS, *pieces])
    options = {"do_lower_case": not cased, "strip_accents": strip_accents, "model_max_length": max_length}
    return BertTokenizer(vocab=vocabulary, **options)


def _is_english_like(letters: Mapping[str, int]) -> bool:
    """Whether so few of the letters (with their counts) are outside a-z that accents are in foreign names at most."""
    counts = {letter: count for letter, count in letters.items() if letter.isalpha()}
    share = sum(count for letter, count in counts.items() if not letter.isascii()) / max(1, sum(counts.values()))
    is_english = share <= MOST_FOREIGN_LETTERS
    done = "stripped (--keep-accents keeps them)" if is_english else "kept (--keep-accents false strips them)"
    logger.info("Tokenizer: %.3g%% of the letters are outside a-z, so accents are %s.", 100 * share, done)
    return is_english


def _choose_alphabet(letters: Mapping[str, int], normalizer: normalizers.Normalizer, vocab_size: int) -> list[str]:
    """The letters that the vocabulary has for certain, most frequent first."""
    counts: Counter[str] = Counter()
    for letter, count in letters.items():
        for normal in normalizer.normalize_str(letter):
            counts[normal] += count
    alphabet = sorted((each for each in counts if not each.isspace()), key=lambda letter: (-counts[letter], letter))
    seen = np.cumsum([counts[letter] for letter in alphabet])
    needed = int(np.sum(seen < (1 - RAREST_LETTERS) * seen[-1:])) + 1
    # A Chinese character, which gets spaces around it, is one token; another letter is two, for it also ends words.
    tokens = np.cumsum([1 if normalizer.normalize_str(letter).startswith(" ") else 2 for letter in alphabet])
    room = int(np.sum(tokens <= vocab_size - len(SPECIAL_TOKENS)))
    return alphabet[: max(LARGEST_ALPHABET, min(needed, room))]


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token to id of a `vocab.txt`: one token a line, its id is the line's number from 0; may raise UserError."""
    with refusing(f"The vocabulary {path} is not UTF-8 text", "give a vocab.txt or a folder", UnicodeDecodeError):
        # A token may be a line break of Unicode, so lines end at "\n" only ("\r\n" is read as "\n").
        tokens = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing:
        raise UserError(f"The vocabulary {path} lacks {', '.join(missing)}: give a BERT vocab.txt or a folder.")
    vocabulary = {token: line for line, token in enumerate(tokens)}
    bad = [token for line, token in enumerate(tokens) if not token or vocabulary[token] != line]
    if bad:
        raise UserError(f"The vocabulary {path} has the line {bad[0]!r} twice, or empty: restore it.")
    return vocabulary


def load_tokenizer(source: str, max_length: int | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer (UserError for none of BERT's kind); a `vocab.txt` is cased, or accented, if one token is."""
    source = model_folder(source)
    path = Path(source).expanduser()
    if path.is_file():
        vocabulary = read_vocabulary(path)
        is_cased = any(token != token.lower() for token in vocabulary if not token.startswith("["))
        strip = normalizers.BertNormalizer(False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
        has_accents = any(token != strip.normalize_str(token) for token in vocabulary)
        kind = {"do_lower_case": not is_cased, "strip_accents": False if has_accents else None}
        return BertTokenizer(vocab=vocabulary, model_max_length=max_length or 512, **kind)
    if path.is_dir() and not (path / "tokenizer.json").is_file() and not (path / "vocab.txt").is_file():
        raise UserError(f"The folder {source} holds no tokenizer (tokenizer.json): name one with --tokenizer.")
    # On damaged files the libraries raise anything, down to a bare KeyError.
    with refusing(f"The tokenizer {source!r} cannot be loaded", "restore or replace it", Exception):
        tokenizer = AutoTokenizer.from_pretrained(source)
    if max_length is not None:
        tokenizer.model_max_length = max_length
    missing = [name for name in ("mask", "cls", "sep", "pad", "unk") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise UserError(f"The tokenizer {source!r} lacks the special token {missing[0]}: use a BERT tokenizer.")
    return tokenizer


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over vocabulary, normalisation and template; truncation and padding state left out."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state = {name: value for name, value in state.items() if name not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def encode_whole(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[str]], list[list[int]]]:
    """Function from texts to their token ids, uncut, without special tokens; the tokenizer's state does not change."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = tokenizer.split_special_tokens
    backend.no_padding()
    backend.no_truncation()
    return lambda texts: [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def tokenize(dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
    """Replace `text` by `input_ids` (cut to `max_length` tokens, special ones included), of pairs with token types."""
    texts = [name for name in ("text", PAIR) if name in dataset.column_names]

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer(*(batch[name] for name in texts), truncation=True, max_length=max_length)
        return {name: encoded[name] for name in ["input_ids", "token_type_ids"][: len(texts)]}

    return dataset.map(encode, batched=True, remove_columns=texts, desc="Tokenizing")


class TokenTable(Sequence[np.ndarray]):
    """Token ids of n texts, mapped from a file: `table[i]` is int32 (tokens,), read only; `lengths` is int32 (n,)."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows, self._ids = rows, rows.data.column("input_ids")
        self.lengths = pc.list_value_length(self._ids).to_numpy()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> Any:
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
    words: int | None = None  # tokens that a table of words reads; None without one, or where it reads `max_length`
    beyond_words: int = 0  # texts of more tokens than that

    @classmethod
    def measure(cls, lengths: np.ndarray, max_length: int, unknown: int, words: int | None = None) -> "TextFacts":
        """From the tokens of each text, int (texts,), and the number of [UNK]; a table reads `words` tokens."""
        total, beyond = int(lengths.sum()), int((lengths - max_length).clip(min=0).sum())
        percentile = int(np.percentile(lengths, 95, method="higher")) if len(lengths) else 0
        longer, short = int((lengths > max_length).sum()), int((lengths < SHORT).sum())
        share, unknown_share = beyond / max(1, total), unknown / max(1, total - SPECIAL * len(lengths))
        beyond_words = 0 if words is None else int((lengths > words).sum())
        return cls(len(lengths), max_length, longer, short, share, percentile, unknown_share, words, beyond_words)

    @classmethod
    def of_texts(
        cls, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, words: int | None = None
    ) -> "TextFacts":
        """The facts of texts, tokenized whole."""
        encode, sizes, unknown = encode_whole(tokenizer), array("q"), 0
        for ids in itertools.chain.from_iterable(map(encode, in_batches(texts))):
            sizes.append(len(ids) + SPECIAL)
            unknown += ids.count(tokenizer.unk_token_id)
        return cls.measure(np.array(sizes, dtype=np.int64), max_length, unknown, words)

    @classmethod
    def of_task(
        cls, task: datasets.DatasetDict, tokenizer: Any, max_length: int, limit: int, words: int | None = None
    ) -> "TextFacts":
        """Of the texts of all splits, with warnings of what is cut or unknown; `limit` as of `warn_of_cut`."""
        texts = as_one_text([text for split in task.values() for text in texts_of(split)])
        facts = cls.of_texts(texts, tokenizer, max_length, words)
        facts.warn_of_cut(limit)
        facts.warn_of_unknown()
        return facts

    def warn_of_cut(self, limit: int) -> None:
        """Say how many texts are cut, and the remedy; `limit` is the longest `max_length` that the encoder allows."""
        if not self.longer:
            return
        enough = min(self.percentile_95, LONGEST_DEFAULT)
        remedy = f"an encoder pre-trained with --max-length {max(enough, self.max_length + 1)} reads more of them"
        if self.words is not None and self.words <= self.max_length:  # a given length cuts both
            remedy = "without --max-length more of them is read"
        elif self.max_length < limit:
            remedy = f"--max-length {min(enough, limit)} reads more of them"
        logger.warning(f"{self.say_cut()}: {remedy}.")

    def say_cut(self) -> str:
        """What is cut, of members and of the table of words."""
        if self.words is None or self.words <= self.max_length:
            return self._longer("cut")
        rest = f" (longer than that: {self.beyond_words:,})" if self.beyond_words else ""
        return f"{self._longer('cut for the members')}; the table of words reads {self.words}{rest}"

    def say_windows(self, split: bool, windows: int) -> None:
        """Log what pre-training makes of long and short texts: so many windows."""
        long_ones, short_ones = ("split", "joined") if split else ("cut", "left out")
        if self.longer or self.short:
            short = f"{self.short:,} have under {SHORT} tokens and are {short_ones}"
            logger.info(f"{self._longer(long_ones)}, {short}: {windows:,} windows.")

    def _longer(self, fate: str) -> str:
        texts = f"{self.longer:,} of {self.texts:,} texts are longer than {self.max_length} tokens and are {fate}"
        return f"{texts} ({self.share_beyond:.1%} of all tokens{'' if fate.startswith('cut') else ' are beyond'})"

    def warn_of_unknown(self) -> None:
        """Say how much is [UNK] where it is more than `MOST_UNKNOWN`."""
        if self.unknown_share > MOST_UNKNOWN:
            logger.warning(
                f"{self.unknown_share:.1%} of the tokens are [UNK], which no model can tell apart: train with a larger "
                "--vocab-size (train-committee: --encoder none), or take a tokenizer or an encoder of the language."
            )


class Windows(Sequence[np.ndarray]):
    """The rows that pre-training sees: `windows[i]` is [CLS], then pieces of texts, each with a [SEP]; int (tokens,).

    With `split` a text of more than `max_length` tokens becomes windows of nearly equal length, and texts under
    `shortest` are joined in their order; without, the former cut and the latter left out. `lengths`: int64 (windows,).
    """

    def __init__(
        self, tokens: TokenTable, tokenizer: Any, max_length: int, *, split: bool = True, shortest: int = SHORT
    ) -> None:
        self.tokens, self.max_length = tokens, max_length
        self.opening, self.separator = tokenizer.cls_token_id, tokenizer.sep_token_id
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

    def facts(self, unknown: int) -> TextFacts:
        """What the limit makes of the texts, which have so many [UNK]."""
        return TextFacts.measure(self.tokens.lengths + SPECIAL, self.max_length, unknown)

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs: int64 (vocab_size,)."""
        total = np.zeros(vocab_size, dtype=np.int64)
        for start in range(0, len(self), 1000):
            total += np.bincount(np.concatenate(self[start : start + 1000]), minlength=vocab_size)
        return total
