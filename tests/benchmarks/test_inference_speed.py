"""The benchmark of frozen committees at `smoke` size. Nothing here asserts a time."""

import json

import pytest
from helpers_commands import refused, succeed
from transformers import BertForSequenceClassification

from tlm_hf.benchmarks.speed import build_batch, stock_classifier
from tlm_hf.evaluation.latency import alternating_seconds
from tlm_hf.recipes import build_config

WORDS = ("--repeats", "1", "--num-threads", "1")
PRECISION = {"float32": 1e-5, "float16": 2e-2, "int8": 0.3}
TABLES = {(runtime, precision) for runtime in ("torch", "numpy") for precision in ("float32", "float16", "int8")}
TABLES |= {("onnxruntime", "float32"), ("onnxruntime", "int8")}
SIDES = {("bert-6", "torch", "float32"), ("committee", "torch", "float32"), *(("frozen", *kind) for kind in TABLES)}


def test_every_side_is_a_row_and_answers_as_the_committee(tmp_path):
    pytest.importorskip("onnxscript")
    file = tmp_path / "f.json"
    succeed("benchmark", "frozen", *WORDS, "--committees", "smoke:2", "--batch-size", "1", "4", "--json", str(file))
    results = json.loads(file.read_text())
    rows = results["rows"]
    assert {(row["model"], row["runtime"], row["precision"]) for row in rows} == SIDES
    assert len(rows) == 2 * len(SIDES)
    assert {(row["size"], row["members"], row["batch_size"]) for row in rows} == {("smoke", 2, 1), ("smoke", 2, 4)}
    deep = {row["batch_size"]: row["ms"] for row in rows if row["model"] == "bert-6"}
    for row in rows:
        assert row["ratio"] == pytest.approx(deep[row["batch_size"]] / row["ms"])
        if row["model"] != "bert-6":
            assert row["max_abs_diff"] <= PRECISION[row["precision"]]
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
    [
        (("--committees", "laptop"), "SIZE:MEMBERS"),
        (("--committees", "huge:1"), "huge"),
        (("--batch-size", "0"), "--batch-size is [0]"),
        (("--recipe", "bert-2"), "bert-2"),
    ],
)
def test_bad_options_are_refused(capsys, words, said):
    assert said in refused(capsys, "benchmark", "frozen", *WORDS, *words)


def test_functions_take_turns():
    calls = []
    seconds = alternating_seconds({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=4)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4}
    blocks = [name for place, name in enumerate(calls) if place == 0 or calls[place - 1] != name]
    assert 4 <= len(blocks) <= 8
