"""Token overlap between a pre-training corpus and a task: two coverages and a divergence, from token counts.

Write c(v) for how often the vocabulary's token v stands in the corpus, t(v) for the task, C and T for their sums, and
P = c / C, Q = t / T for the unigram distributions. Special tokens ([UNK] among them) are never counted: see
`encode_texts`. Nothing is smoothed, so all three depend on how many texts there are: compare corpora of one size on one
split of a task, not splits or tasks of different size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.special import rel_entr
from transformers import PreTrainedTokenizerBase

from ..errors import UserError

MIN_COUNT = 10
"""Default n of the coverages: a token counts as seen when it stands at least so often in the corpus."""
BATCH = 1000


@dataclass(frozen=True)
class TokenTexts:
    """Tokenised texts in two flat arrays: text number i is `ids[offsets[i]:offsets[i + 1]]`.

    Args:
        ids: int32 (tokens,), without special tokens.
        offsets: int64 (texts + 1,), from 0 to `tokens`, never falling.
        vocab_size: bound of the ids.
    """

    ids: np.ndarray
    offsets: np.ndarray
    vocab_size: int

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64 (texts,)."""
        return np.diff(self.offsets)


def encode_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> TokenTexts:
    """Tokenise texts for counting, special tokens left out.

    Left out is all that the tokenizer calls special: [CLS], [SEP] and so on, and also [UNK], of which a model learns
    nothing about the word that it stands for.

    Args:
        texts: the texts; any sequence of str.
        tokenizer: the tokenizer.
        max_length: cut each text as training at this length would (tokens, special tokens included); None for whole
            texts.

    Returns:
        The texts' tokens, in order; a text may be left with none.
    """
    special = np.array(sorted(tokenizer.all_special_ids), dtype=np.int32)
    room = None if max_length is None else max(0, max_length - tokenizer.num_special_tokens_to_add())
    parts, counts = [], [np.zeros(1, dtype=np.int64)]
    for start in range(0, len(texts), BATCH):
        encoded = tokenizer(
            list(texts[start : start + BATCH]), add_special_tokens=False, truncation=room is not None, max_length=room,
            return_attention_mask=False, return_token_type_ids=False, verbose=False,
        )["input_ids"]  # fmt: skip
        lengths = np.fromiter((len(text) for text in encoded), dtype=np.int64, count=len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=int(lengths.sum()))
        kept = ~np.isin(ids, special)
        ends = np.concatenate([[0], np.cumsum(kept)])[np.cumsum(lengths)]
        counts.append(np.diff(ends, prepend=0))
        parts.append(ids[kept])
    offsets = np.cumsum(np.concatenate(counts))
    return TokenTexts(np.concatenate([np.zeros(0, dtype=np.int32), *parts]), offsets, len(tokenizer))


def count_tokens(texts: TokenTexts, chosen: np.ndarray | None = None) -> np.ndarray:
    """How often each token stands in the texts.

    Args:
        texts: tokenised texts.
        chosen: indices of the texts that count, each once; None for all.

    Returns:
        int64 (vocab_size,).
    """
    ids = texts.ids
    if chosen is not None:
        wanted = np.zeros(len(texts), dtype=bool)
        wanted[chosen] = True
        ids = ids[np.repeat(wanted, texts.lengths)]
    return np.bincount(ids, minlength=texts.vocab_size)


def type_coverage(corpus: np.ndarray, task: np.ndarray, min_count: int = MIN_COUNT) -> float:
    """Share of the task's token types that the corpus has at least `min_count` times.

    |{v : t(v) > 0 and c(v) >= n}| / |{v : t(v) > 0}|.

    Args:
        corpus: counts c, (vocab_size,).
        task: counts t, (vocab_size,), in the same tokenizer's tokens.
        min_count: n, at least 1.

    Returns:
        In [0, 1]; never rises with n.

    Raises:
        UserError: a side without tokens, counts over different vocabularies, or n below 1.
    """
    _check(corpus, task, min_count)
    present = task > 0
    return float(np.count_nonzero(present & (corpus >= min_count)) / np.count_nonzero(present))


def occurrence_coverage(corpus: np.ndarray, task: np.ndarray, min_count: int = MIN_COUNT) -> float:
    """Share of the task's token occurrences whose type the corpus has at least `min_count` times.

    (sum of t(v) over v with c(v) >= n) / T; arguments, range and errors as `type_coverage`.
    """
    _check(corpus, task, min_count)
    return float(task[corpus >= min_count].sum() / task.sum())


def jensen_shannon_bits(corpus: np.ndarray, task: np.ndarray) -> float:
    """Jensen-Shannon divergence between two unigram distributions, in bits (Lin, IEEE Trans. Inf. Theory 37, 1991).

    1/2 sum_v P log2(P / M) + 1/2 sum_v Q log2(Q / M) with M = (P + Q) / 2 and 0 log 0 = 0: the divergence itself, not
    its square root (which is a distance), base 2, nothing smoothed. Symmetric; 0 for equal distributions, 1 for
    distributions without a common token. So *low* divergence is *high* overlap.

    Args:
        corpus: counts c, (vocab_size,).
        task: counts t, (vocab_size,).

    Returns:
        In [0, 1].

    Raises:
        UserError: a side without tokens, or counts over different vocabularies.
    """
    _check(corpus, task)
    P, Q = corpus / corpus.sum(), task / task.sum()
    M = (P + Q) / 2
    nats = (rel_entr(P, M).sum() + rel_entr(Q, M).sum()) / 2
    return float(np.clip(nats / np.log(2), 0.0, 1.0))


def measure_overlap(corpus: np.ndarray, task: np.ndarray, min_count: int = MIN_COUNT) -> dict[str, float]:
    """The three measures at once: `type_coverage`, `occurrence_coverage` (shares) and `jensen_shannon_bits` (bits).

    Args:
        corpus: token counts, (vocab_size,).
        task: token counts, (vocab_size,).
        min_count: n of the coverages.

    Raises:
        UserError: as `type_coverage`.
    """
    return {
        "type_coverage": type_coverage(corpus, task, min_count),
        "occurrence_coverage": occurrence_coverage(corpus, task, min_count),
        "jensen_shannon_bits": jensen_shannon_bits(corpus, task),
    }


def _check(corpus: np.ndarray, task: np.ndarray, min_count: int = 1) -> None:
    if corpus.ndim != 1 or corpus.shape != task.shape:
        raise UserError(
            f"Token counts of shapes {corpus.shape} and {task.shape} cannot be compared: count both with one tokenizer."
        )
    for side, counts in (("corpus", corpus), ("task", task)):
        if not counts.sum() > 0:
            raise UserError(f"The {side} has no tokens besides special ones: give texts in the tokenizer's language.")
    if min_count < 1:
        raise UserError(f"min_count is {min_count}: a token must be seen at least 1 time to count as seen.")
