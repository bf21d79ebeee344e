"""Token overlap between a corpus and a task, from unsmoothed counts: compare corpora of one size on one split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.special import rel_entr
from transformers import PreTrainedTokenizerBase

from ..errors import UserError, check_range
from ..option_fields import option
from ..runs.atomic_files import Json
from ..runs.provenance import portable_path
from .corpora import load_corpus
from .kinds import as_one_text, texts_of
from .tasks import load_task
from .tokenization import load_tokenizer, train_wordpiece

MIN_COUNT = 10  # default n of the coverages: a token counts as covered when the corpus has it at least so often
BATCH = 1000


@dataclass(frozen=True)
class Overlap:
    """The three measures: shares of the task's token types and occurrences, and 0 (equal) to 1 (disjoint) bits."""

    type_coverage: float
    occurrence_coverage: float
    jensen_shannon_bits: float


class TokenOverlap:
    """Token overlap of pre-training texts with a task's texts: low divergence is high overlap.

        overlap = TokenOverlap(AutoTokenizer.from_pretrained("bert-base-uncased"), max_length=128)
        print(overlap.compute(corpus_texts, task_texts).jensen_shannon_bits)

    A token that the corpus has `min_count` times is covered; of each text `max_length` tokens count, special
    ones included (None: all).
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, min_count: int = MIN_COUNT, max_length: int | None = None
    ) -> None:
        self.tokenizer, self.min_count, self.max_length = tokenizer, min_count, max_length

    def compute(self, corpus_texts: Sequence[str], task_texts: Sequence[str]) -> Overlap:
        """Measure the overlap; raises UserError where one side has no tokens."""
        sides = (encode_texts(texts, self.tokenizer, self.max_length) for texts in (corpus_texts, task_texts))
        corpus, task = map(count_tokens, sides)
        return Overlap(**measure_overlap(corpus, task, self.min_count))


def encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> csr_matrix:
    """How often each ordinary token is in each text, cut as in training at `max_length`: int64 (texts, vocab_size)."""
    limit = None if max_length is None else max(0, max_length - tokenizer.num_special_tokens_to_add())
    options = {"add_special_tokens": False, "truncation": limit is not None, "max_length": limit, "verbose": False}
    parts = [csr_matrix((0, len(tokenizer)), dtype=np.int64)]
    is_ordinary = np.ones(len(tokenizer), dtype=np.int64)
    is_ordinary[tokenizer.all_special_ids] = 0
    for start in range(0, len(texts), BATCH):
        encoded = tokenizer(list(texts[start : start + BATCH]), return_attention_mask=False, **options)["input_ids"]
        ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int32)
        ends = np.cumsum([0, *map(len, encoded)])
        part = csr_matrix((is_ordinary[ids], ids, ends), shape=(len(encoded), len(tokenizer)))
        part.sum_duplicates()
        parts.append(part)
    return vstack(parts, format="csr")


def count_tokens(texts: csr_matrix) -> np.ndarray:
    """How often each token occurs in the texts, int64 (vocab_size,)."""
    return texts.T @ np.ones(texts.shape[0], dtype=np.int64)


def jensen_shannon_bits(corpus: np.ndarray, task: np.ndarray) -> float:
    """Jensen-Shannon divergence (not its square root) of two counts, (vocab_size,), in bits (Lin, IEEE Trans. 1991)."""
    for side, counts in (("corpus", corpus), ("task", task)):
        if not counts.sum() > 0:
            raise UserError(f"The {side} has no tokens besides special ones: give texts in the tokenizer's language.")
    P, Q = corpus / corpus.sum(), task / task.sum()
    M = (P + Q) / 2
    nats = (rel_entr(P, M).sum() + rel_entr(Q, M).sum()) / 2
    return float(np.clip(nats / np.log(2), 0.0, 1.0))


def measure_overlap(corpus: np.ndarray, task: np.ndarray, min_count: int = MIN_COUNT) -> dict[str, float]:
    """The fields of `Overlap` from two token counts of one tokenizer, (vocab_size,); UserError for an empty side."""
    if min_count < 1:
        raise UserError(f"min_count is {min_count}: a token must be seen at least 1 time to count as covered.")
    divergence = jensen_shannon_bits(corpus, task)  # refuses sides without tokens
    present, covered = task > 0, corpus >= min_count
    types = float(np.count_nonzero(present & covered) / np.count_nonzero(present))
    occurrences = float(task[covered].sum() / task.sum())
    return {"type_coverage": types, "occurrence_coverage": occurrences, "jensen_shannon_bits": divergence}


@dataclass
class OverlapArguments:
    """Options of `tlm overlap`."""

    corpus: str = option("wikipedia", "docstrings, wikipedia, a file or folder, or a Hub data set.")
    tasks: list[str] = option(lambda: ["ag_news"], "Tasks: known names, files, folders or Hub data sets.")
    text_column: str | None = option(None, "Column of the tasks' texts (default: text, or the only one of strings).")
    label_column: str = option("label", "Column of the tasks' labels.")
    num_texts: int | None = option(None, "Texts of the corpus (default: all).")
    tokenizer: str | None = option(None, "Folder or Hub name; default: a WordPiece trained on the corpus.")
    vocab_size: int = option(8000, "Size of the trained WordPiece.")
    max_length: int = option(128, "Tokens of each text that count, special tokens included.")
    min_count: int = option(MIN_COUNT, "How often the corpus must have a token to cover it.")
    data_root: str | None = option(None, "Folder of real text; default: $TLM_DATA.")


def overlap(arguments: OverlapArguments) -> Json:
    """Measure the token overlap of a corpus with the training and test texts of tasks: `corpus`, `table` by task."""
    check_range(arguments, 1, math.inf, "num_texts", "min_count", "vocab_size")
    check_range(arguments, 3, math.inf, "max_length")
    if not arguments.tasks:
        raise UserError("--tasks names no task: name one.")
    options: Json = {"root": arguments.data_root, "shortfall": "take"}
    options |= {"text_column": arguments.text_column, "label_column": arguments.label_column}
    tasks = {name: load_task(name, **options) for name in arguments.tasks}
    texts = load_corpus(arguments.corpus, num_texts=arguments.num_texts, root=arguments.data_root)["train"]["text"][:]
    length, chosen = arguments.max_length, arguments.tokenizer
    tokenizer = load_tokenizer(chosen) if chosen else train_wordpiece(texts, arguments.vocab_size, length)
    corpus = count_tokens(encode_texts(texts, tokenizer, length))
    table: Json = {}
    for name, task in tasks.items():
        key = name if portable_path(name) in table else portable_path(name)
        table[key] = {}
        for split in ("train", "test"):
            counts = count_tokens(encode_texts(as_one_text(texts_of(task[split])), tokenizer, length))
            table[key][split] = measure_overlap(corpus, counts, arguments.min_count)
    name = portable_path(arguments.corpus)
    return {"corpus": {"name": name, "texts": len(texts), "tokens": int(corpus.sum())}, "table": table}
