"""Latency of the study's committees and of the deep encoder, all by turns in one run, for the accuracy-latency plot.

Weights do not matter to time, so the models are new ones in the shapes of the study.
"""

import os
from collections.abc import Callable
from typing import Any

import torch

from ..benchmarks.inference_speed import build_batch, stock_classifier
from ..evaluation.latency import alternating_medians
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_tlm import TLMForSequenceClassification
from ..recipes import build_config, find_size

REPEATS = 31


def measure_latency(
    size: str, members: dict[str, int], reference: str, counts: list[int], batch_size: list[int]
) -> dict[str, Any]:
    """Median milliseconds of a batch of texts of the size's full length, every second one half as long.

    Args:
        size: name of the size.
        members: recipes of members and how many there are; the first recipe's committees are measured at `counts`,
            one member of each other recipe alone, and a mixed committee of one member of each recipe.
        reference: recipe of the deep encoder, measured as stock BERT, and as our class in a row of its own.
        counts: numbers of members.
        batch_size: texts in a batch.

    Returns:
        `rows` of `model`, `members`, `batch_size`, `milliseconds`; `threads`.
    """
    length = find_size(size).max_length

    def member(recipe: str) -> TLMForSequenceClassification:
        return TLMForSequenceClassification(build_config(recipe, size)).eval()

    def committee(recipes: list[str]) -> CommitteeForSequenceClassification:
        return CommitteeForSequenceClassification.from_members([member(recipe) for recipe in recipes]).eval()

    torch.set_num_threads(os.cpu_count() or 1)  # a worker of the study has one; here nothing runs beside
    torch.manual_seed(0)
    first, *others = members
    deep = build_config(reference, size)
    deep.id2label = {0: "a", 1: "b"}
    models: dict[tuple[str, int], Any] = {(reference, 1): stock_classifier(deep)}
    models[f"{reference}, our fast path", 1] = member(reference)
    models |= {(first, count): committee([first] * count) for count in counts}
    models |= {(recipe, 1): member(recipe) for recipe in others}
    if others:
        models["mixed", len(members)] = committee(list(members))
    rows = []
    for texts in batch_size:
        batch = build_batch(deep.vocab_size, texts, length)

        def answer(model: Any, batch: dict[str, torch.Tensor] = batch) -> Callable[[], object]:
            return lambda: model(**batch).logits

        with torch.inference_mode():
            seconds = alternating_medians({str(key): answer(model) for key, model in models.items()}, REPEATS)
        rows += [
            {"model": name, "members": count, "batch_size": texts, "milliseconds": 1000 * seconds[str((name, count))]}
            for name, count in models
        ]
    return {"rows": rows, "threads": torch.get_num_threads()}
