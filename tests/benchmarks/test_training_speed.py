"""Steps of training timed at `smoke` size, and the clock of a training, moved by hand. Nothing here asserts a time."""

import json
import math

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from tlm_hf.benchmarks.speed import Side, StepArguments, benchmark_steps, build_model, build_step_batch
from tlm_hf.errors import UserError
from tlm_hf.training import callbacks
from tlm_hf.training.callbacks import WARM_STEPS, StepClock

SIDES = {"stock", "stock_same_allocator", "ours_same_precision", "ours_best_same_dropout", "ours_best"}


@pytest.mark.slow
def test_every_side_is_timed_and_compared(tmp_path):
    file = tmp_path / "folder" / "speed.json"
    arguments = StepArguments(size="smoke", json=str(file), batch_size=4, repeats=1, num_threads=1)
    results = benchmark_steps(arguments)
    assert json.loads(file.read_text())["ratios"] == results["ratios"]
    assert set(results["median_seconds"]) == SIDES
    for name, seconds in results["median_seconds"].items():
        assert results["ratios"][name] == results["median_seconds"]["stock"] / seconds
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


def test_time_is_booked_where_it_was_spent(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    clock = StepClock()
    events = (TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(), TrainerControl())
    batch = {"input_ids": torch.ones(2, 3), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    clock.on_train_begin(*events)
    for step in range(WARM_STEPS + 2):
        now[0] += 1  # loading the first pass
        clock.count(batch)
        now[0] += 12
        clock.count(batch)
        now[0] += 27
        clock.on_step_end(*events)
        if step == WARM_STEPS:
            with clock.apart("evaluation"):
                now[0] += 100
    found = clock.summary()
    assert found["steps"] == 2
    assert found["seconds"] == 80  # 2 x (1 + 12 + 27); the evaluation is left out
    assert found["median_step_seconds"] == 40
    assert found["tokens_per_second"] == 2 * 2 * 4 / 80
    assert found["seconds_apart"] == {"evaluation": 100, "checkpoints": 0}
