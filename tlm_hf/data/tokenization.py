"""Tokenizers: WordPiece trained on a corpus, a `vocab.txt`, a folder or a Hub name; always a stock `BertTokenizer`."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from ..errors import UserError, first_line
from ..runs.atomic_files import Json
from .embedded import model_folder
from .kinds import PAIR
from .sources import each_text

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LARGEST_ALPHABET = 1000  # letters at most, unless more are needed; then as many as the vocabulary has room for
RAREST_LETTERS = 1 / 2000
MOST_FOREIGN_LETTERS = 1 / 200  # outside a-z, for English-like text (English Wikipedia: 1 in 3,700; German: 1 in 60)
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
        trainer = trainers.WordPieceTrainer(vocab_size=size, **options)
        tokenizer.train_from_iterator(each_text(corpus), trainer)
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
    alphabet = [letter for letter in counts if not letter.isspace()]
    alphabet.sort(key=lambda letter: (-counts[letter], letter))
    seen = np.cumsum([counts[letter] for letter in alphabet])
    needed = int(np.sum(seen < (1 - RAREST_LETTERS) * seen[-1:])) + 1
    # A Chinese character, which gets spaces around it, is one token; another letter is two, for it also ends words.
    tokens = np.cumsum([1 if normalizer.normalize_str(letter).startswith(" ") else 2 for letter in alphabet])
    room = int(np.sum(tokens <= vocab_size - len(SPECIAL_TOKENS)))
    return alphabet[: max(LARGEST_ALPHABET, min(needed, room))]


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token to id of a `vocab.txt`: one token a line, its id is the line's number from 0; may raise UserError."""
    try:
        # A token may be a line break of Unicode, so lines end at "\n" only ("\r\n" is read as "\n").
        tokens = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"The vocabulary {path} is not UTF-8 text: give a vocab.txt or a folder.") from error
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
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # on damaged files the libraries raise anything, down to a bare KeyError
        reason = first_line(error)
        raise UserError(f"The tokenizer {source!r} cannot be loaded ({reason}): restore or replace it.") from error
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

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return encode


def tokenize(dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> datasets.Dataset:
    """Replace `text` by `input_ids` (cut to `max_length` tokens, special ones included), of pairs with token types."""
    texts = [name for name in ("text", PAIR) if name in dataset.column_names]
    names = ["input_ids", "token_type_ids"][: len(texts)]

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = tokenizer(*(batch[name] for name in texts), truncation=True, max_length=max_length)
        return {name: encoded[name] for name in names}

    return dataset.map(encode, batched=True, remove_columns=texts, desc="Tokenizing")
