"""Token overlap as an `evaluate` measurement kept in the package, since `evaluate.load` needs the network."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from transformers import PreTrainedTokenizerBase

from ..errors import UserError
from .overlap import MIN_COUNT, count_tokens, encode_texts, measure_overlap
from .tokenization import load_tokenizer

_CITATION = "Lin, Divergence Measures Based on the Shannon Entropy, IEEE Transactions on Information Theory 37(1), 1991"
_INPUTS = """
data: list of str, the pre-training texts (also in parts, by `add_batch(data=...)`).
task: list of str, the task's texts.
tokenizer: a tokenizer, or a vocab.txt, folder or Hub name.
min_count: how often a token must stand in `data` to count as seen.
max_length: tokens of each text that count, special tokens included; None for all.
"""


class TokenOverlap(evaluate.Measurement):
    """Coverages and Jensen-Shannon divergence between pre-training texts and a task's: see `overlap.measure_overlap`.

    `TokenOverlap().compute(data=corpus_texts, task=task_texts, tokenizer=tokenizer)` gives `type_coverage` and
    `occurrence_coverage` (shares), `jensen_shannon_bits` (bits), and the counts `corpus_tokens`, `task_tokens`,
    `task_types`; it raises UserError for a side without tokens.
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Share of a task's tokens that pre-training text has, and the divergence of the two.",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"data": datasets.Value("string")}),
        )

    def _compute(
        self,
        data: Sequence[str],
        task: Sequence[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        min_count: int = MIN_COUNT,
        max_length: int | None = None,
    ) -> dict[str, Any]:
        if task is None or tokenizer is None:
            raise UserError("TokenOverlap compares data with a task: give compute both task=... and tokenizer=....")
        loaded = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        corpus_counts, task_counts = (count_tokens(encode_texts(texts, loaded, max_length)) for texts in (data, task))
        found = measure_overlap(corpus_counts, task_counts, min_count)
        return {
            **found,
            "corpus_tokens": int(corpus_counts.sum()),
            "task_tokens": int(task_counts.sum()),
            "task_types": int((task_counts > 0).sum()),
        }
