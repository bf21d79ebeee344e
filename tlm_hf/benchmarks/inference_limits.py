"""How fast a committee could at best answer on this machine, from what it must read and multiply."""

import statistics
import time
from dataclasses import dataclass

import torch

from ..models.configuration_tlm import TLMConfig

READ_BYTES, READ_REPEATS = 1 << 28, 9


@dataclass(frozen=True)
class Machine:
    """What the machine can do at most.

    Args:
        bytes_per_second: reading memory, from `measure_bandwidth`.
        flop_per_second: a product of two square matrices of size 2048 in the same precision.
    """

    bytes_per_second: float
    flop_per_second: float


def measure_bandwidth() -> float:
    """Bytes a second that are read from memory: the sum of 256 MiB of float32, median of nine after one not counted."""
    numbers = torch.ones(READ_BYTES // 4)
    seconds = []
    for turn in range(1 + READ_REPEATS):
        start = time.perf_counter()
        numbers.sum()
        if turn:
            seconds.append(time.perf_counter() - start)
    return READ_BYTES / statistics.median(seconds)


def least_bytes(config: TLMConfig, members: int, tokens: int, distinct: int, element: int) -> int:
    """Bytes that must be read once: the vectors that ask, the weights behind the pooling, rows of the embeddings.

    Args:
        config: a member's, of one layer without convolution.
        members: of them.
        tokens: positions of the longest text.
        distinct: different tokens in the batch.
        element: bytes of a number.
    """
    hidden, inner = config.hidden_size, config.feed_forward_size
    # The query and key projections are in the vectors that ask, one a head, which are constants of a checkpoint.
    weights = 3 * hidden * hidden + 2 * hidden * inner + config.num_attention_heads * hidden
    weights += 9 * hidden + inner + config.num_labels * (hidden + 1)
    return members * element * (weights + hidden * (distinct + tokens + 3))


def multiply_adds(config: TLMConfig, members: int, texts: int, tokens: int) -> int:
    """Multiply-adds: scores and pooling of each real token for each head, and the products on one row a text.

    Args:
        config: a member's, of one layer without convolution.
        members: of them.
        texts: in the batch.
        tokens: of all texts together, without padding.
    """
    hidden, inner = config.hidden_size, config.feed_forward_size
    pooling = 2 * tokens * config.num_attention_heads * hidden
    rest = texts * (3 * hidden * hidden + 2 * hidden * inner + hidden * config.num_labels)
    return members * (pooling + rest)


def limit_seconds(
    config: TLMConfig, members: int, lengths: list[int], distinct: int, element: int, there: Machine
) -> float:
    """Seconds of a batch at the machine's limits, reading and multiplying one after the other.

    Args:
        config: a member's.
        members: of them.
        lengths: tokens of each text.
        distinct: different tokens in the batch.
        element: bytes of a number.
        there: the machine's limits.
    """
    reading = least_bytes(config, members, max(lengths), distinct, element) / there.bytes_per_second
    products = 2 * multiply_adds(config, members, len(lengths), sum(lengths)) / there.flop_per_second
    return reading + products
