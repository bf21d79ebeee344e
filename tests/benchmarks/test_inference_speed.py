"""The benchmark of inference at `smoke` size. Nothing here asserts a time."""

import json

import numpy as np
import pytest
from helpers_commands import refused, succeed
from transformers import BertForSequenceClassification

from tlm_hf.benchmarks.inference_speed import build_batch, stock_classifier
from tlm_hf.evaluation.latency import alternating_seconds
from tlm_hf.recipes import build_config

WORDS = ("benchmark", "inference", "--size", "smoke", "--repeats", "1", "--num-threads", "1")


def test_every_combination_is_a_row(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    words = ("--members", "2", "--batch-size", "1", "3", "--sequence-length", "8", "--kinds", "torch-fp32")
    file = tmp_path / "f.json"
    succeed(*WORDS, *words, "torch-bf16", "onnx-fp32", "onnx-int8", "--json", str(file))
    results = json.loads(file.read_text())
    rows = results["rows"]
    assert sorted(row["batch_size"] for row in rows) == [1] * 4 + [3] * 4
    assert all(row["ratio"] == pytest.approx(row["reference_ms"] / row["committee_ms"]) for row in rows)
    assert {"command", "commit", "machine", "settings"} <= set(results)


def test_the_reference_and_the_batch():
    model = stock_classifier(build_config("bert-6", "smoke"))
    assert type(model) is BertForSequenceClassification
    assert model.config.num_hidden_layers == 6
    assert model.config._attn_implementation == "sdpa"
    batch = build_batch(1000, 5, 32)
    assert batch["attention_mask"].sum(dim=1).tolist() == [32, 16, 32, 16, 32]
    assert not batch["input_ids"][1, 16:].any()


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--kinds", "torch-int8"), "torch-int8"), (("--reference", "bert-1-conv2"), "convolution front-end")],
)
def test_bad_options_are_refused(capsys, words, said):
    assert said in refused(capsys, *WORDS, *words)


def test_functions_take_turns():
    calls = []
    seconds = alternating_seconds({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=4)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4}
    assert np.min(list(seconds.values())) > 0
    blocks = [name for place, name in enumerate(calls) if place == 0 or calls[place - 1] != name]
    assert 4 <= len(blocks) <= 8
