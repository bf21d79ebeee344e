"""The training benchmarks at `smoke` size, and the clock of a training. Nothing here asserts a time.

Oracles: a clock that is moved by hand, the kernel's count of resident pages.
"""

import json
import math
import sys

import pytest
import torch
from helpers_commands import write_corpus
from transformers import TrainerControl, TrainerState, TrainingArguments

from tlm_hf.benchmarks.training_speed import (
    Side,
    StepArguments,
    TrainingSpeedArguments,
    benchmark_steps,
    benchmark_training,
    build_batch,
    build_model,
)
from tlm_hf.errors import UserError
from tlm_hf.training import callbacks
from tlm_hf.training.callbacks import WARM_STEPS, StepClock

SIDES = {"stock", "stock_same_allocator", "ours_same_precision", "ours_best_same_dropout", "ours_best"}
STEPS = 9


@pytest.mark.slow
def test_every_side_is_timed_and_compared(tmp_path):
    file = tmp_path / "folder" / "speed.json"
    arguments = StepArguments(size="smoke", json=str(file), batch_size=4, repeats=1, num_threads=1)
    results = benchmark_steps(arguments)
    assert json.loads(file.read_text())["ratio_same_precision"] == results["ratio_same_precision"]
    assert set(results["median_seconds"]) == SIDES == set(results["peak_memory_mib"])
    for name, ratio in (("ours_same_precision", "ratio_same_precision"), ("ours_best", "ratio_best")):
        assert results[ratio] == results["median_seconds"]["stock"] / results["median_seconds"][name]
    assert {"command", "commit", "machine", "settings", "versions"} <= set(results)


def test_both_sides_are_equal_models():
    arguments = StepArguments(size="smoke", batch_size=400)
    stock, ours = (build_model(arguments, Side(stock=kind, dropout=0.2)) for kind in (True, False))
    for model in (stock, ours):
        assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.2
    assert all(torch.equal(ours.get_parameter(name), value) for name, value in stock.named_parameters())
    share = (build_batch(arguments, 1000, 32)["labels"] != -100).float().mean().item()
    assert abs(share - 0.15) < 5 * math.sqrt(0.15 * 0.85 / (400 * 32))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"recipe": "bert-1-conv2"}, "bert-1-conv2 has a convolution front-end"),
        ({"recipe": "bert-2"}, "no recipe 'bert-2'"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"dropout": 1.0}, "--dropout is 1.0"),
    ],
)
def test_bad_options_are_refused_before_any_work(fields, sentence, one_sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        benchmark_steps(StepArguments(**fields))
    one_sentence(caught.value)


def test_the_real_training_is_measured(tmp_path):
    write_corpus(tmp_path / "corpus.txt", texts=200)
    results = benchmark_training(
        TrainingSpeedArguments(
            corpus=str(tmp_path / "corpus.txt"),
            size="smoke",
            num_texts=160,
            max_steps=STEPS,
            batch_size=4,
            repeats=1,
            num_threads=1,
        )
    )
    assert 0 < results["share_outside"] < 1
    assert results["speed"]["steps"] == STEPS - WARM_STEPS
    assert len(results["stock_seconds"]) == 2
    assert results["ratio"] == results["stock_step_seconds"] / results["step_seconds"]
    assert results["stock_hours"] == pytest.approx(2000 * results["stock_step_seconds"] / 3600)
    for fields, sentence in (
        ({"recipe": "bert-1-conv2"}, "convolution front-end"),
        ({"max_steps": 5}, "--max-steps is 5"),
        ({"repeats": 0}, "--repeats is 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            benchmark_training(TrainingSpeedArguments(**fields))


def test_time_is_booked_where_it_was_spent(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    clock = StepClock()
    events = (TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(), TrainerControl())
    batch = {"input_ids": torch.ones(2, 3), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    clock.on_train_begin(*events)
    for step in range(WARM_STEPS + 2):
        now[0] += 1  # loading the first pass
        clock.start_pass(batch)
        now[0] += 12
        clock.start_pass(batch)
        now[0] += 20
        now[0] += 5  # clipping and the optimizer
        clock.on_optimizer_step(*events)
        now[0] += 2  # the schedule
        clock.on_step_end(*events)
        if step == WARM_STEPS:
            with clock.apart("evaluation"):
                now[0] += 100
    found = clock.summary()
    assert found["steps"] == 2
    assert found["seconds"] == 80  # 2 x (1 + 12 + 20 + 5 + 2); the evaluation is left out
    assert found["share_outside"] == pytest.approx(3 / 40)
    assert found["median_step_seconds"] == 40
    assert found["tokens_per_second"] == 2 * 2 * 4 / 80
    assert found["seconds_apart"] == {"evaluation": 100, "checkpoints": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's count of resident pages")
def test_freed_memory_stays_in_the_process_when_asked(run_with_package):
    code = """
import json, sys, torch
from tlm_hf.training.trainer import keep_freed_memory
asked = sys.argv[1] == "yes"
took = keep_freed_memory() if asked else None
def pages():
    return int(open("/proc/self/statm").read().split()[1])
block = torch.ones(64 * 2**20 // 4)
full = pages()
del block
print(json.dumps({"took": took, "freed_mib": (full - pages()) * 4096 / 2**20}))
"""
    kept, given_back = run_with_package(code, "yes"), run_with_package(code, "no")
    if not kept["took"]:
        pytest.skip("not glibc")
    assert kept["freed_mib"] < 1
    assert given_back["freed_mib"] > 60
