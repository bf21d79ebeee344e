"""Tokenizers: WordPiece trained on a corpus, a `vocab.txt`, a folder or a Hub name; always a stock `BertTokenizer`."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from ..errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LARGEST_ALPHABET = 1000
TEXTS_AT_ONCE = 2000


@dataclass(frozen=True)
class TextColumn:
    """The texts of a table's column, read some at a time from where they lie; can be gone through again and again.

    Args:
        dataset: the table.
        column: its column of texts.
    """

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


def train_wordpiece(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerBase:
    """Train an uncased WordPiece vocabulary; the same texts give the same vocabulary and ids in every process.

    Args:
        texts: the corpus; gone through three times, and held in memory only where it is an iterator, which ends.
        vocab_size: bound of tokens, special tokens included (special tokens and letters are there in any case).
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
            vocab_size=size, special_tokens=first_tokens, initial_alphabet=alphabet, limit_alphabet=len(alphabet),
            min_frequency=2, show_progress=False,
        )  # fmt: skip
        tokenizer.train_from_iterator(corpus, trainer)
        return tokenizer.get_vocab()

    # The trainer numbers letters inside words ("##a") as a randomly seeded hash table yields them, and breaks ties
    # between pairs by these numbers. So the letters alone are found first, and given in a fixed order then.
    letters = sorted(set(train(0, list(SPECIAL_TOKENS))) - set(SPECIAL_TOKENS))
    return from_vocabulary(train(vocab_size, [*SPECIAL_TOKENS, *letters]), max_length)


def from_vocabulary(vocabulary: dict[str, int], max_length: int) -> PreTrainedTokenizerBase:
    """Stock uncased `BertTokenizer` over `vocabulary` (token to id)."""
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=max_length)


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token to id of a `vocab.txt`: one token a line, its id is the line's number from 0.

    Raises:
        UserError: not UTF-8, special tokens missing, an empty line, or a token that stands there twice.
    """
    try:
        # A token may be a line break of Unicode, so lines end at "\n" alone ("\r\n" is read as "\n").
        tokens = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"The vocabulary {path} is not UTF-8 text: give a vocab.txt or a folder.") from error
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if vocabulary.setdefault(token, index) != index:
            first = vocabulary[token] + 1
            raise UserError(
                f"The vocabulary {path} has {token!r} on line {first} and again on line {index + 1}: every token needs "
                "one id, so restore the file."
            )
    absent = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if absent:
        raise UserError(f"The vocabulary {path} lacks {', '.join(absent)}: give a BERT vocab.txt or a folder.")
    if "" in vocabulary:
        raise UserError(f"Line {vocabulary[''] + 1} of the vocabulary {path} is empty: restore the file.")
    return vocabulary


def load_tokenizer(source: str, max_length: int | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        source: a `vocab.txt`, a folder that holds a tokenizer, or a Hub name.
        max_length: new `model_max_length` in tokens; None keeps the tokenizer's.

    Raises:
        UserError: nothing there, or a tokenizer without [MASK], [CLS], [SEP] and [PAD].
    """
    path = Path(source).expanduser()
    if path.is_file():
        tokenizer = from_vocabulary(read_vocabulary(path), max_length or 512)
    else:
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
    missing = [name for name in ("mask", "cls", "sep", "pad") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing or tokenizer.unk_token_id is None:
        raise UserError(f"The tokenizer {source!r} lacks the special token {missing or ['unk']}: use a BERT tokenizer.")
    return tokenizer


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over vocabulary, normalisation and template; truncation and padding state left out."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("truncation", None)
    state.pop("padding", None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def encoder_of(
    tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Callable[[list[str]], tuple[np.ndarray, np.ndarray]]:
    """Function from texts to token ids, at the speed of the `tokenizers` library.

    Args:
        tokenizer: a fast tokenizer; it is copied, so its own truncation and padding stay as they are.
        max_length: tokens of a text at most, special tokens included.

    Returns:
        Function of n texts that returns their ids one after the other, int32 (all tokens,), and their lengths, int32
        (n,); the same ids as `tokenizer(texts, truncation=True, max_length=max_length)`.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = tokenizer.split_special_tokens
    backend.no_padding()
    backend.enable_truncation(max_length, direction=tokenizer.truncation_side)

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encodings = backend.encode_batch_fast(texts)
        lengths = np.fromiter(map(len, encodings), dtype=np.int32, count=len(encodings))
        every = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(every, dtype=np.int32, count=int(lengths.sum(dtype=np.int64))), lengths

    return encode


def tokenize(
    dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, description: str = "Tokenizing"
) -> datasets.Dataset:
    """Replace the column `text` by `input_ids` (truncated to `max_length` tokens, special tokens included)."""

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer(
            batch["text"], truncation=True, max_length=max_length, return_attention_mask=False,
            return_token_type_ids=False,
        )  # fmt: skip
        return {"input_ids": encoded["input_ids"]}

    return dataset.map(encode, batched=True, remove_columns=["text"], desc=description)
