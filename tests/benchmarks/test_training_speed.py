"""Steps of training timed at `smoke` size. Nothing here asserts a time."""

import json
import math

import pytest
import torch

from tlm_hf.benchmarks.speed import Side, StepArguments, benchmark_steps, build_model, build_step_batch
from tlm_hf.errors import UserError

SIDES = {"stock", "stock_same_allocator", "ours_same_precision", "ours_best_same_dropout", "ours_best"}


@pytest.mark.slow
def test_every_side_is_timed_and_compared(tmp_path):
    file = tmp_path / "folder" / "speed.json"
    arguments = StepArguments(size="smoke", json=str(file), batch_size=4, repeats=1, num_threads=1)
    results = benchmark_steps(arguments)
    assert json.loads(file.read_text())["ratios"] == results["ratios"]
    medians = results["median_seconds"]
    assert results["ratios"] == {name: medians["stock"] / medians[name] for name in SIDES}
    assert {"command", "commit", "machine", "settings", "versions"} <= set(results)


def test_both_sides_are_equal_models():
    arguments = StepArguments(size="smoke", batch_size=400)
    stock, ours = (build_model(arguments, Side(stock=kind, dropout=0.2)) for kind in (True, False))
    for model in (stock, ours):
        assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.2
    assert all(torch.equal(ours.get_parameter(name), value) for name, value in stock.named_parameters())
    share = (build_step_batch(arguments, 1000, 32)["labels"] != -100).float().mean().item()
    assert abs(share - 0.15) < 5 * math.sqrt(0.15 * 0.85 / (400 * 32))


def test_refusals():
    for fields, said in (
        ({"recipe": "bert-1-conv2"}, "convolution front-end"),
        ({"mlm_probability": 1.0}, "--mlm-prob"),
    ):
        with pytest.raises(UserError, match=said):
            benchmark_steps(StepArguments(**fields))
