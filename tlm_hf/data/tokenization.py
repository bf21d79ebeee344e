"""Tokenizers: WordPiece trained on a corpus, a `vocab.txt`, a folder or a Hub name; always a stock `BertTokenizer`."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import datasets
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from ..errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerBase:
    """Train an uncased WordPiece vocabulary; the same texts give the same vocabulary.

    Args:
        texts: the corpus.
        vocab_size: upper bound of tokens, special tokens included.
        max_length: becomes the tokenizer's `model_max_length` (tokens).
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False, min_frequency=2
    )
    tokenizer.train_from_iterator(texts, trainer)
    return from_vocabulary(tokenizer.get_vocab(), max_length)


def from_vocabulary(vocabulary: dict[str, int], max_length: int) -> PreTrainedTokenizerBase:
    """Stock uncased `BertTokenizer` over `vocabulary` (token to id)."""
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=max_length)


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
        tokens = path.read_text(encoding="utf-8").splitlines()
        tokenizer = from_vocabulary({token: index for index, token in enumerate(tokens)}, max_length or 512)
    else:
        if path.is_dir() and not (path / "tokenizer.json").is_file() and not (path / "vocab.txt").is_file():
            raise UserError(f"The folder {source} holds no tokenizer (tokenizer.json): name one with --tokenizer.")
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"The tokenizer {source!r} cannot be loaded: {first}") from error
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
