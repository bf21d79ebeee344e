"""The training benchmark at `smoke` size: what it reports, what it refuses; and the allocator's setting.

Nothing here asserts a time. Oracles: the logarithm for the loss of an untrained, nearly uniform guess, the kernel's own
count of resident pages for the allocator.
"""

import json
import math
import sys

import pytest
import torch

from tlm_hf.benchmarks.speed import BenchmarkArguments, Side, benchmark, build_batch, build_model, differences
from tlm_hf.errors import UserError

SIDES = {"stock", "stock_same_allocator", "ours_same_precision", "ours_best_same_dropout"}


def test_every_side_is_timed_and_compared(tmp_path):
    file = tmp_path / "speed.json"
    arguments = BenchmarkArguments(
        what="pretraining", recipe="bert-1", size="smoke", json=str(file), batch_size=4, repeats=1, num_threads=1
    )
    results = benchmark(arguments)
    assert json.loads(file.read_text())["ratio_same_precision"] == results["ratio_same_precision"]
    assert set(results["median_seconds"]) == SIDES | {"ours_best"} == set(results["peak_memory_mib"])
    for name, ratio in (("ours_same_precision", "ratio_same_precision"), ("ours_best", "ratio_best")):
        assert results[ratio] == results["median_seconds"]["stock"] / results["median_seconds"][name]
        assert results["sequences_per_second"][name] == 4 / results["median_seconds"][name]
        assert 0 < results["matrix_product_seconds"][name] < 60
    assert results["loss_difference"] < 1e-5
    assert results["gradient_difference"] < 1e-4
    assert results["loss"] == pytest.approx(math.log(1000), rel=0.1)  # nothing is learnt: nearly uniform guesses
    assert {"machine", "command", "commit", "versions"} <= set(results["provenance"])
    assert {"avx512_bf16", "cores", "processor"} <= set(results["provenance"]["machine"])


def test_finetuning_is_compared_with_stock():
    found = differences(BenchmarkArguments(what="finetuning", recipe="bert-6", size="smoke", batch_size=4))
    assert found["loss_difference"] < 1e-5
    assert found["gradient_difference"] < 1e-4


def test_sides_differ_in_what_they_say_alone():
    arguments = BenchmarkArguments(what="pretraining", recipe="bert-1", size="smoke", dropout=0.2, mlm_probability=0.15)
    stock, ours = (build_model(arguments, Side(stock=kind, dropout=0.2)) for kind in (True, False))
    assert stock.config.hidden_dropout_prob == ours.config.hidden_dropout_prob == 0.2
    assert stock.config.attention_probs_dropout_prob == ours.config.attention_probs_dropout_prob == 0.2
    assert {name: value.shape for name, value in stock.named_parameters()} == {
        name: value.shape for name, value in ours.named_parameters()
    }
    assert all(torch.equal(ours.get_parameter(name), value) for name, value in stock.named_parameters())
    batch = build_batch(BenchmarkArguments(what="pretraining", batch_size=400), 1000, 32)
    share = (batch["labels"] != -100).float().mean().item()
    assert abs(share - 0.15) < 5 * math.sqrt(0.15 * 0.85 / (400 * 32))
    assert batch["attention_mask"].all()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"what": "inference"}, "no benchmark 'inference'; choose one of pretraining, finetuning"),
        ({"what": "pretraining", "recipe": "bert-1-conv2"}, "bert-1-conv2 has a convolution front-end"),
        ({"what": "pretraining", "recipe": "bert-2"}, "no recipe 'bert-2'"),
        ({"what": "pretraining", "repeats": 0}, "--repeats is 0"),
        ({"what": "pretraining", "dropout": 1.0}, "--dropout is 1.0"),
    ],
)
def test_bad_options_are_refused_before_any_work(fields, sentence, one_sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        benchmark(BenchmarkArguments(**fields))
    one_sentence(caught.value)


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
