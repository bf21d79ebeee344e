"""The package's one timing loop, and the latency of classifiers."""

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.benchmark import Timer, set_torch_threads
from transformers import PreTrainedModel

Key = TypeVar("Key", bound=Hashable)
IDLE_SHARE = 0.9  # of the time that a core must work for this process, or the measurement is unreliable
LEAST_SECONDS = 0.01  # spent on one measurement: fast functions are called several times


def alternating_seconds(functions: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, list[float]]:
    """Seconds of each function in each round. The order changes, so that other load on the machine hits all alike.

    Each is the median of several calls, after at least one that warms up (`torch.utils.benchmark.Timer`).
    """
    threads = torch.get_num_threads()
    timers = {name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in functions.items()}
    seconds: dict[Key, list[float]] = {name: [] for name in functions}
    order, shuffle = list(functions), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            seconds[name].append(timers[name].blocked_autorange(min_run_time=LEAST_SECONDS).median)
    return seconds


def alternating_medians(functions: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, float]:
    """Medians of `alternating_seconds`."""
    return {name: statistics.median(values) for name, values in alternating_seconds(functions, rounds).items()}


def watch() -> Callable[[], bool]:
    """A function that tells whether other programs have used the core of this process since."""
    wall, processor = time.perf_counter(), time.process_time()
    return lambda: time.process_time() - processor < IDLE_SHARE * (time.perf_counter() - wall)


def classifier_latency(
    models: Mapping[str, PreTrainedModel], tokenizer: Any, text: Any, rounds: int = 30, threads: int | None = None
) -> dict[str, float]:
    """Median milliseconds for one text or pair, tokenization included, of each classifier, on so many torch threads."""
    options = {"truncation": True, "return_tensors": "pt", "return_token_type_ids": not isinstance(text, str)}

    def classify(model: PreTrainedModel) -> object:
        return model(**tokenizer([text], **options)).logits

    with torch.inference_mode(), set_torch_threads(threads or torch.get_num_threads()):
        calls = {name: partial(classify, model.eval()) for name, model in models.items()}
        return {name: 1000 * seconds for name, seconds in alternating_medians(calls, rounds).items()}
