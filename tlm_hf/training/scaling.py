"""When do several GPUs pay for models this small? Arithmetic, not measurement: `python -m tlm_hf.training.scaling`.

Data-parallel training does one step in max(compute) + the part of the gradient exchange that the backward pass does not
hide. Nothing is hidden here, which is nearly true for these models: the largest gradient, that of the word embeddings
shared with the decoder, is complete only at the very end of the backward pass.

- compute: multiply-adds of the texts of one process (`operations.masked_lm_multiply_adds`, forward and backward, on
  the path of fewest), times 2 FLOPs, over the rate that the device sustains; plus a fixed time a step for launching
  kernels and for the optimizer, which no split makes smaller.
- exchange: a ring all-reduce of P processes sends and receives 2 (P - 1) / P times the gradient's bytes through the
  slowest link, 4 bytes a parameter (gradients are float32 under autocast too), plus 2 (P - 1) latencies.

Two questions have different answers. The same batch split over more processes (strong scaling) leaves less compute for
the same exchange; the same texts for each process (weak scaling) keeps the share, but the batch grows with P, and
beyond some batch size more texts a step no longer save steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..flops import cheapest_path, masked_lm_multiply_adds
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_tlm import TLMForMaskedLM
from ..recipes import build_config, shorten

MASK_RATE = 0.3
"""Our default; the paper's 0.15 halves the decoder's share."""
GRADIENT_BYTES = 4
FLOPS_PER_MULTIPLY_ADD = 2


@dataclass(frozen=True)
class Device:
    """What computes.

    Args:
        name: for the table.
        flops: FLOPs per second that a training step sustains, not the data sheet's peak.
        fixed: seconds a step beside matrix products: kernel launches, optimizer, masking.
    """

    name: str
    flops: float
    fixed: float


@dataclass(frozen=True)
class Link:
    """What gradients travel through.

    Args:
        name: for the table.
        bandwidth: bytes per second and direction of one process's share of the slowest link.
        latency: seconds of one hop.
    """

    name: str
    bandwidth: float
    latency: float


GPU = Device("GPU", 200e12, 2e-3)
"""An assumption: a fifth of the 989e12 dense bfloat16 FLOPs of an H100's data sheet, and 2 ms of launches a step."""
NVLINK = Link("NVLink", 300e9, 5e-6)
"""An assumption: two thirds of the 450 GB/s a direction of an H100's data sheet."""
ETHERNET_100, ETHERNET_10 = Link("100 Gbit", 10e9, 20e-6), Link("10 Gbit", 1e9, 50e-6)
"""Assumptions: 80% of the line, which the processes of a node share as one ring."""
LINKS = (NVLINK, ETHERNET_100, ETHERNET_10)


def gradient_bytes(config: TLMConfig) -> int:
    """Bytes of all gradients of a masked language model, tied weights once."""
    with torch.device("meta"):
        model = TLMForMaskedLM(config)
    return GRADIENT_BYTES * sum(parameter.numel() for parameter in model.parameters())


def text_flops(config: TLMConfig) -> int:
    """FLOPs of one text of full length, forward and backward, on the path of fewest."""
    length = config.max_position_embeddings
    labelled = round(MASK_RATE * length)
    path = cheapest_path(config, length, labelled, training=True)
    return FLOPS_PER_MULTIPLY_ADD * masked_lm_multiply_adds(config, length, labelled, path=path)


def exchange_seconds(size: int, processes: int, link: Link) -> float:
    """Ring all-reduce of `size` bytes over `processes` >= 1, in seconds; 0 for one."""
    hops = 2 * (processes - 1)
    return hops / processes * size / link.bandwidth + hops * link.latency


def step_seconds(config: TLMConfig, texts: int, processes: int, device: Device, link: Link) -> float:
    """One optimizer step of `texts` texts over all processes, of which the busiest has ceil(texts / processes)."""
    compute = math.ceil(texts / processes) * text_flops(config) / device.flops
    return compute + device.fixed + exchange_seconds(gradient_bytes(config), processes, link)


def tokens_per_second(config: TLMConfig, texts: int, processes: int, device: Device, link: Link) -> float:
    """Positions (padding included) of `texts` texts over all processes, by the seconds of their step."""
    return texts * config.max_position_embeddings / step_seconds(config, texts, processes, device, link)


def speed_up(config: TLMConfig, texts: int, processes: int, device: Device, link: Link, *, weak: bool = False) -> float:
    """Texts per second of `processes` over those of one.

    Args:
        config: the model's.
        texts: texts a step: over all processes, or with `weak` for each of them.
        processes: how many.
        device: what computes.
        link: what gradients travel through.
        weak: see `texts`.
    """
    together = texts * processes if weak else texts
    one = step_seconds(config, texts, 1, device, link) / texts
    return one / (step_seconds(config, together, processes, device, link) / together)


def break_even(config: TLMConfig, processes: int, device: Device, link: Link, share: float = 0.5) -> int:
    """Fewest texts a process at which each process is worth `share` of one by itself (weak scaling).

    It solves c t + f >= share (c t + f + e) for the texts t, with c compute of a text, f fixed time, e the exchange.
    """
    exchange = exchange_seconds(gradient_bytes(config), processes, link)
    wanted = exchange * share / (1 - share) - device.fixed
    return max(1, math.ceil(wanted / (text_flops(config) / device.flops)))


def describe_scaling(names: Sequence[str] = ("bert-1@paper", "bert-6@paper")) -> str:
    """Tables in Markdown: the figures of each model, and speed-ups on 8 and 64 GPUs; arithmetic, not measured."""
    configs = {name: build_config(*name.split("@")) for name in names}
    lines = [
        f"Arithmetic, not measured: GPUs that sustain {GPU.flops / 1e12:.0f} TFLOP/s in bfloat16 and spend "
        f"{1e3 * GPU.fixed:.0f} ms a step on all else;",
        "; ".join(f"{link.name} {link.bandwidth / 1e9:.0f} GB/s" for link in LINKS) + " a process and direction; ring",
        f"all-reduce of float32 gradients, none of it hidden; mask rate {MASK_RATE}, texts of full length.",
        "",
        "| model | parameters | gradient MB | GFLOP a text | ms for 256 texts | tokens/s of one | " + " | ".join(
            f"ms exchange, 8 x {link.name}" for link in LINKS) + " |",
        "|---|" + "---|" * (5 + len(LINKS)),
    ]  # fmt: skip
    for name, config in configs.items():
        size = gradient_bytes(config)
        cells = [name, shorten(size // GRADIENT_BYTES), f"{size / 1e6:.0f}", f"{text_flops(config) / 1e9:.2f}"]
        cells.append(f"{1e3 * step_seconds(config, 256, 1, GPU, NVLINK):.1f}")
        cells.append(shorten(int(tokens_per_second(config, 256, 1, GPU, NVLINK))))
        cells += [f"{1e3 * exchange_seconds(size, 8, link):.1f}" for link in LINKS]
        lines.append("| " + " | ".join(cells) + " |")
    columns = [(processes, link) for processes in (8, 64) for link in LINKS]
    lines += [
        "",
        "| speed-up | " + " | ".join(f"{processes} x {link.name}" for processes, link in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name, config in configs.items():
        for texts, weak in ((32, False), (256, False), (4096, False), (256, True), (2048, True)):
            what = f"{name}, {texts:,} texts {'a process' if weak else 'in all'}"
            gains = (speed_up(config, texts, processes, GPU, link, weak=weak) for processes, link in columns)
            lines.append(f"| {what} | " + " | ".join(f"{gain:.1f}" for gain in gains) + " |")
        needed = (break_even(config, processes, GPU, link) for processes, link in columns)
        lines.append(f"| {name}, texts a process for half of it | " + " | ".join(f"{n:,}" for n in needed) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(describe_scaling() + "\n")
