"""Token overlap between a pre-training corpus and a task: two coverages and a divergence, from token counts.

Special tokens ([UNK] among them) are never counted and nothing is smoothed, so all three measures depend on how many
texts there are: compare corpora of one size on one split of a task.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.special import rel_entr
from transformers import PreTrainedTokenizerBase

from ..errors import UserError

MIN_COUNT = 10
"""Default n of the coverages: a token counts as covered when the corpus has it at least so often."""
BATCH = 1000


@dataclass(frozen=True)
class Overlap:
    """The three measures: shares of the task's token types and occurrences, and 0 (equal) to 1 (disjoint) bits."""

    type_coverage: float
    occurrence_coverage: float
    jensen_shannon_bits: float


class TokenOverlap:
    """Token overlap of pre-training texts with a task's texts.

    Example::

        from datasets import load_dataset
        from tlm_hf import TokenOverlap
        from transformers import AutoTokenizer

        overlap = TokenOverlap(AutoTokenizer.from_pretrained("bert-base-uncased"), max_length=128)
        corpus = load_dataset("text", data_files="corpus.txt", split="train")["text"]
        task = load_dataset("fancyzhx/ag_news", split="train")["text"]
        result = overlap.compute(corpus, task)
        print(result.type_coverage, result.occurrence_coverage)
        print(result.jensen_shannon_bits)  # low divergence is high overlap

    Args:
        tokenizer: its tokens are compared.
        min_count: how often the corpus must have a token to cover it.
        max_length: tokens of each text that count, special tokens included; None for whole texts.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, min_count: int = MIN_COUNT, max_length: int | None = None
    ) -> None:
        self.tokenizer, self.min_count, self.max_length = tokenizer, min_count, max_length

    def compute(self, corpus_texts: Sequence[str], task_texts: Sequence[str]) -> Overlap:
        """Measure the overlap; raises UserError where one side has no tokens."""
        corpus, task = (
            count_tokens(encode_texts(texts, self.tokenizer, self.max_length)) for texts in (corpus_texts, task_texts)
        )
        return compare_counts(corpus, task, self.min_count)


def encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> csr_matrix:
    """How often each token is in each text, int64 (texts, vocab_size), without tokens that are special ([UNK] too).

    `max_length` cuts each text as training at this length would, special tokens included.
    """
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
        part.eliminate_zeros()
        parts.append(part)
    return vstack(parts, format="csr")


def count_tokens(texts: csr_matrix, chosen: np.ndarray | None = None) -> np.ndarray:
    """How often each token occurs in the texts, or in those with the indices `chosen`, int64 (vocab_size,)."""
    weights = np.ones(texts.shape[0], dtype=np.int64)
    if chosen is not None:
        weights[:] = 0
        weights[chosen] = 1
    return texts.T @ weights


def jensen_shannon_bits(corpus: np.ndarray, task: np.ndarray) -> float:
    """Jensen-Shannon divergence between two unigram distributions, in bits (Lin, IEEE Trans. Inf. Theory 37, 1991).

    Takes counts, (vocab_size,). This is the divergence, not its square root (the distance).
    """
    _check(corpus, task)
    P, Q = corpus / corpus.sum(), task / task.sum()
    M = (P + Q) / 2
    nats = (rel_entr(P, M).sum() + rel_entr(Q, M).sum()) / 2
    return float(np.clip(nats / np.log(2), 0.0, 1.0))


def compare_counts(corpus: np.ndarray, task: np.ndarray, min_count: int = MIN_COUNT) -> Overlap:
    """The three measures of two token counts.

    Type coverage is |{v : t(v) > 0 and c(v) >= n}| / |{v : t(v) > 0}|, occurrence coverage (sum of t(v) over
    c(v) >= n) / sum t.

    `corpus` and `task` are the counts c and t, (vocab_size,), of one tokenizer; `min_count` is n.

    Raises:
        UserError: a side without tokens, or n below 1.
    """
    _check(corpus, task)
    if min_count < 1:
        raise UserError(f"min_count is {min_count}: a token must be seen at least 1 time to count as covered.")
    present, covered = task > 0, corpus >= min_count
    return Overlap(
        type_coverage=float(np.count_nonzero(present & covered) / np.count_nonzero(present)),
        occurrence_coverage=float(task[covered].sum() / task.sum()),
        jensen_shannon_bits=jensen_shannon_bits(corpus, task),
    )


def measure_overlap(corpus: np.ndarray, task: np.ndarray, min_count: int = MIN_COUNT) -> dict[str, float]:
    """`compare_counts` by name, for results files."""
    return asdict(compare_counts(corpus, task, min_count))


def _check(corpus: np.ndarray, task: np.ndarray) -> None:
    for side, counts in (("corpus", corpus), ("task", task)):
        if not counts.sum() > 0:
            raise UserError(f"The {side} has no tokens besides special ones: give texts in the tokenizer's language.")
