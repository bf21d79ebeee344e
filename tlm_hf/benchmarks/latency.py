"""Latency of classifiers, measured by turns within one run, as medians."""

import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def alternating_medians(
    functions: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 3
) -> dict[str, float]:
    """Median seconds of each function, called by turns so that other load on the machine hits all alike.

    The order is another one in each round: what follows a large model finds its own weights thrown out of the caches.

    Args:
        functions: what to time, by name.
        repeats: timed rounds.
        warmup: untimed rounds before.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    order, shuffle = list(functions.items()), random.Random(0).shuffle
    for turn in range(warmup + repeats):
        shuffle(order)
        for name, function in order:
            start = time.perf_counter()
            function()
            if turn >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def classifier_latency(
    models: Mapping[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    repeats: int = 30,
    threads: int | None = None,
) -> dict[str, float]:
    """Median milliseconds for one text, tokenisation included, of each model by turns.

    Args:
        models: classifiers by name, sharing the tokenizer.
        tokenizer: the tokenizer.
        text: the text to classify.
        repeats: timed rounds.
        threads: torch threads during the measurement; None leaves them.
    """

    def classify(model: PreTrainedModel) -> Callable[[], object]:
        def once() -> object:
            batch = tokenizer(text, truncation=True, return_tensors="pt", return_token_type_ids=False)
            return model(**batch).logits

        return once

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            functions = {name: classify(model.eval()) for name, model in models.items()}
            seconds = alternating_medians(functions, repeats)
    finally:
        torch.set_num_threads(before)
    return {name: 1000 * value for name, value in seconds.items()}
