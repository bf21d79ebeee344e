"""The arithmetic of several GPUs; oracle: the same figures worked out here by hand, and the model's own gradients."""

import math

import pytest
import torch

from tlm_hf import TLMForMaskedLM
from tlm_hf.recipes import build_config
from tlm_hf.training.scaling import (
    GPU,
    LINKS,
    NVLINK,
    Device,
    Link,
    break_even,
    describe_scaling,
    exchange_seconds,
    gradient_bytes,
    speed_up,
    step_seconds,
    text_flops,
    tokens_per_second,
)


def test_bert_1_at_paper_size_by_hand():
    config = build_config("bert-1", "paper")
    h, v, t, q = 768, 30522, 128, 38  # 30% of 128 positions
    layer = 12 * h * h + 13 * h  # four projections and 8 h^2 of feed-forward; biases h + 4 h; LayerNorms
    head = h * h + 3 * h + v
    assert gradient_bytes(config) == 4 * ((v + t + 2) * h + 2 * h + layer + head)
    queries_reduced = 2 * t * h * h + 2 * q * t * h + q * (2 * h * h + 8 * h * h)
    queries_absorbed = 2 * q * 12 * t * h + q * (4 * h * h + 8 * h * h)
    assert text_flops(config) == 2 * 3 * (min(queries_reduced, queries_absorbed) + q * (h * h + h * v))


def test_gradient_bytes_are_those_of_a_backward_pass():
    config = build_config("bert-1", "smoke")
    model = TLMForMaskedLM(config)
    ids = torch.arange(16)[None] + 5
    model(input_ids=ids, labels=ids).loss.backward()
    counted = sum(parameter.grad.numel() * parameter.grad.element_size() for parameter in model.parameters())
    assert gradient_bytes(config) == counted


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_exchange_is_what_a_ring_sends(processes):
    """Oracle: a ring played through, chunk by chunk: each process sends one chunk at each hop, all at once."""
    link, size = Link("", 1e9, 1e-5), 840_000
    chunk = size / processes
    seconds = 0.0
    for _phase in ("sum", "spread"):
        for _hop in range(processes - 1):
            seconds += chunk / link.bandwidth + link.latency
    assert math.isclose(exchange_seconds(size, processes, link), seconds)


def test_step_and_speed_up():
    config = build_config("bert-1", "smoke")
    device, link = Device("", 1e9, 0.01), Link("", 1e6, 0.0)
    alone = 32 * text_flops(config) / 1e9 + 0.01
    assert math.isclose(step_seconds(config, 32, 1, device, link), alone)
    split = 11 * text_flops(config) / 1e9 + 0.01 + 4 / 3 * gradient_bytes(config) / 1e6  # 32 texts over 3: 11, 11, 10
    assert math.isclose(step_seconds(config, 32, 3, device, link), split)
    assert math.isclose(speed_up(config, 32, 3, device, link), alone / split)
    assert math.isclose(tokens_per_second(config, 32, 3, device, link), 32 * 32 / split)  # smoke: 32 tokens a text
    each = alone + 4 / 3 * gradient_bytes(config) / 1e6
    assert math.isclose(speed_up(config, 32, 3, device, link, weak=True), 3 * alone / each)


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
@pytest.mark.parametrize("processes", [8, 64])
def test_break_even_is_the_first_batch_that_is_worth_half(link, processes):
    config = build_config("bert-6", "paper")
    texts = break_even(config, processes, GPU, link)
    assert speed_up(config, texts, processes, GPU, link, weak=True) >= processes / 2
    if texts > 1:
        assert speed_up(config, texts - 1, processes, GPU, link, weak=True) < processes / 2


def test_nothing_scales_better_than_its_processes_and_the_table_says_what_it_is():
    for processes in (2, 8, 64):
        for weak in (False, True):
            gain = speed_up(build_config("bert-1", "paper"), 4096, processes, GPU, NVLINK, weak=weak)
            assert 1 < gain < processes
    table = describe_scaling()
    assert table.startswith("Arithmetic, not measured")
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(widths) == 2  # two tables, each of one width
