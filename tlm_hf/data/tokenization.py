"""Tokenizers: WordPiece trained on a corpus, a `vocab.txt`, a folder or a Hub name; always a stock `BertTokenizer`."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from ..errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LARGEST_ALPHABET = 1000
TEXTS_AT_ONCE = 2000


@dataclass(frozen=True)
class TextColumn:
    """The texts of a table's column, read in batches from disk; can be iterated several times."""

    dataset: datasets.Dataset
    column: str = "text"

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(self.batches())

    def batches(self, size: int = TEXTS_AT_ONCE) -> Iterator[list[str]]:
        """Lists of `size` texts, the last one shorter.

        Raises:
            UserError: a row without text.
        """
        for part in self.dataset.select_columns([self.column]).with_format("arrow").iter(size):
            texts = part.column(self.column)
            if texts.null_count:
                raise UserError(f"The column {self.column!r} has {texts.null_count} rows without text: drop them.")
            yield texts.to_pylist()


def train_wordpiece(texts: Iterable[str], vocab_size: int, max_length: int = 512) -> PreTrainedTokenizerBase:
    """Train an uncased WordPiece vocabulary; the same texts give the same vocabulary and ids in every process.

    `tokenizers` alone does not promise that (tokenizers#1794). The result is a stock `BertTokenizer`.

    Args:
        texts: the corpus; it is read three times, and held in memory only if it is an iterator.
        vocab_size: tokens at most, special tokens included (special tokens and letters are always part of it).
        max_length: becomes the tokenizer's `model_max_length` (tokens).
    """
    corpus = list(texts) if isinstance(texts, Iterator) else texts
    normalizer = normalizers.BertNormalizer(lowercase=True)
    counts: Counter[str] = Counter()
    for text in corpus:
        counts.update(normalizer.normalize_str(text))
    by_frequency = sorted(counts, key=lambda letter: (-counts[letter], letter))
    alphabet = [letter for letter in by_frequency if not letter.isspace()][:LARGEST_ALPHABET]

    def train(size: int, first_tokens: list[str]) -> dict[str, int]:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=size,
            special_tokens=first_tokens,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            min_frequency=2,
            show_progress=False,
        )
        tokenizer.train_from_iterator(corpus, trainer)
        return tokenizer.get_vocab()

    # The trainer numbers letters inside words ("##a") as a randomly seeded hash table yields them, and breaks ties
    # between pairs by these numbers. So a first run finds the letters, and the second gets them in a fixed order.
    letters = sorted(set(train(0, list(SPECIAL_TOKENS))) - set(SPECIAL_TOKENS))
    vocabulary = train(vocab_size, [*SPECIAL_TOKENS, *letters])
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=max_length)


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token to id of a `vocab.txt`: one token a line, its id is the line's number from 0. Raises UserError."""
    try:
        # A token may be a line break of Unicode, so lines end at "\n" only ("\r\n" is read as "\n").
        tokens = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"The vocabulary {path} is not UTF-8 text: give a vocab.txt or a folder.") from error
    vocabulary = {token: index for index, token in enumerate(tokens)}
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise UserError(f"The vocabulary {path} lacks {', '.join(missing)}: give a BERT vocab.txt or a folder.")
    for index, token in enumerate(tokens):
        if not token or vocabulary[token] != index:
            line = vocabulary[token] + 1
            raise UserError(
                f"The vocabulary {path} has {token!r} on line {line}, empty or for the second time: restore it."
            )
    return vocabulary


def load_tokenizer(source: str, max_length: int | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        source: a `vocab.txt`, a folder that holds a tokenizer, or a Hub name.
        max_length: new `model_max_length` in tokens; None keeps the tokenizer's.

    Raises:
        UserError: no tokenizer, or one without [MASK], [CLS], [SEP], [PAD] or [UNK].
    """
    path = Path(source).expanduser()
    if path.is_file():
        return BertTokenizer(vocab=read_vocabulary(path), do_lower_case=True, model_max_length=max_length or 512)
    if path.is_dir() and not (path / "tokenizer.json").is_file() and not (path / "vocab.txt").is_file():
        raise UserError(f"The folder {source} holds no tokenizer (tokenizer.json): name one with --tokenizer.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # on damaged files the libraries raise anything, down to a bare KeyError
        reason = str(error).strip().splitlines()[0].rstrip(". ") if isinstance(error, OSError | ValueError) else ""
        raise UserError(
            f"The tokenizer {source!r} cannot be loaded: {reason or 'its files are damaged'} (restore it, or name "
            "another)."
        ) from error
    if max_length is not None:
        tokenizer.model_max_length = max_length
    missing = [name for name in ("mask", "cls", "sep", "pad", "unk") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise UserError(f"The tokenizer {source!r} lacks the special token {missing[0]}: use a BERT tokenizer.")
    return tokenizer


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over vocabulary, normalisation and template; truncation and padding state left out."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("truncation", None)
    state.pop("padding", None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def tokenize(
    dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, description: str = "Tokenizing"
) -> datasets.Dataset:
    """Replace the column `text` by `input_ids` (truncated to `max_length` tokens, special tokens included)."""

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"input_ids": tokenizer(batch["text"], truncation=True, max_length=max_length)["input_ids"]}

    return dataset.map(encode, batched=True, remove_columns=["text"], desc=description)
