"""The inference benchmark: what it compares, what it refuses; its limits against numbers counted by hand."""

import json
from pathlib import Path

import pytest
import torch
from helpers_commands import refused, succeed
from transformers import BertForSequenceClassification

from tlm_hf.benchmarks import inference_limits as limits
from tlm_hf.benchmarks.inference_memory import measure_memory
from tlm_hf.benchmarks.inference_speed import InferenceBenchmarkArguments, build_batch, member_config, stock_classifier

WORDS = ("benchmark", "inference", "--size", "smoke", "--repeats", "1", "--num-threads", "1")


def test_one_row_stands_at_the_top(tmp_path):
    succeed(
        *WORDS, "--members", "3", "--batch-size", "4", "--sequence-length", "32", "--json", str(tmp_path / "f.json")
    )
    found = json.loads((tmp_path / "f.json").read_text())
    row = found["rows"][0]
    assert len(found["rows"]) == 1
    for name in ("ratio", "max_abs_diff", "committee_ms", "reference_ms", "limit_ms"):
        assert found[name] == row[name]
    assert 0 < row["max_abs_diff"] < 1e-5
    assert row["ratio"] == pytest.approx(row["reference_ms"] / row["committee_ms"])
    assert row["profile_ms"]
    assert found["memory"] is None
    assert found["machine"]["cores"]


def test_every_combination_is_a_row(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    words = ("--members", "1", "2", "--batch-size", "1", "3", "--sequence-length", "8", "16", "--precisions", "fp32")
    file = tmp_path / "f.json"
    succeed(*WORDS, *words, "bf16", "int8", "--runtimes", "torch", "onnx", "--json", str(file))
    rows = json.loads(file.read_text())["rows"]
    kinds = {(row["runtime"], row["precision"]) for row in rows}
    assert kinds == {("torch", "fp32"), ("torch", "bf16"), ("onnx", "fp32"), ("onnx", "int8")}
    assert len({(row["members"], row["batch_size"], row["sequence_length"]) for row in rows}) == 8
    assert len(rows) == 32
    assert max(row["max_abs_diff"] for row in rows if row["precision"] == "fp32") < 1e-5
    assert max(row["max_abs_diff"] for row in rows) < 0.1
    assert file.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_memory_is_that_of_a_fresh_process():
    config = member_config(InferenceBenchmarkArguments(size="laptop", sequence_length=[32]), "bert-1")
    config.vocab_size = 30_000
    found = measure_memory(config, 4, 1)
    with torch.device("meta"):
        model = stock_classifier(config)
    size = 4 * sum(weight.nbytes for weight in model.parameters()) / 2**20
    assert found["weights_mib"] == pytest.approx(size, rel=0.01)
    for how in ("from_members", "from_pretrained"):
        # A second copy would make it 2; what torch takes for itself counts for more here than at the paper's width.
        assert 0.1 < found[f"{how}_peak_share"] < 1.6


def test_the_other_models_are_timed(tmp_path):
    file = tmp_path / "f.json"
    succeed(*WORDS, "--batch-size", "2", "--sequence-length", "8", "--members", "1", "--others", "--json", str(file))
    row = json.loads(file.read_text())["rows"][0]
    assert min(row[f"{name}_ms"] for name in ("bert-mini", "bert-small", "tfidf")) > 0


def test_members_with_a_convolution_answer_too(tmp_path):
    file = tmp_path / "f.json"
    succeed(*WORDS, "--members", "2", "--recipe", "bert-1-conv2", "--batch-size", "3", "--sequence-length", "16",
            "--json", str(file))  # fmt: skip
    row = json.loads(file.read_text())["rows"][0]
    assert row["max_abs_diff"] < 1e-5
    assert "limit_ms" not in row


def test_half_of_the_texts_are_half_as_long():
    batch = build_batch(1000, 5, 32)
    assert batch["attention_mask"].sum(dim=1).tolist() == [32, 16, 32, 16, 32]
    assert build_batch(1000, 1, 32)["attention_mask"].sum() == 32
    assert not batch["input_ids"][1, 16:].any()


def test_the_reference_is_stock_bert_by_sdpa():
    config = member_config(InferenceBenchmarkArguments(size="smoke", sequence_length=[16]), "bert-6")
    model = stock_classifier(config)
    assert type(model) is BertForSequenceClassification
    assert model.config.num_hidden_layers == 6
    assert model.config._attn_implementation == "sdpa"


def test_limits_are_what_a_member_reads_and_multiplies():
    config = member_config(InferenceBenchmarkArguments(size="smoke", sequence_length=[16]), "bert-1")
    with torch.device("meta"):
        model = stock_classifier(config)
    words = model.bert.embeddings.word_embeddings.weight
    every = sum(weight.numel() for weight in model.parameters())
    # All weights but the rows of words and positions that are not read, and one of the two rows of token types.
    positions = model.bert.embeddings.position_embeddings.weight
    attention = model.bert.encoder.layer[0].attention.self
    asking = sum(weight.numel() for layer in (attention.query, attention.key) for weight in layer.parameters())
    read = every - words.numel() - positions.numel() - config.hidden_size + (7 + 12) * config.hidden_size
    read += config.num_attention_heads * config.hidden_size - asking
    assert limits.least_bytes(config, 1, 12, 7, 4) == pytest.approx(4 * read, rel=0.01)
    hidden, heads, inner = config.hidden_size, config.num_attention_heads, config.feed_forward_size
    by_hand = 2 * 20 * heads * hidden + 3 * (hidden * (3 * hidden + 2 * inner + 4))
    assert limits.multiply_adds(config, 5, 3, 20) == 5 * by_hand
    there = limits.Machine(bytes_per_second=1e9, flop_per_second=1e10)
    expected = limits.least_bytes(config, 5, 12, 7, 4) / 1e9 + 2 * 5 * by_hand / 1e10
    assert limits.limit_seconds(config, 5, [12, 6, 2], 7, 4, there) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--precisions", "int8"), "int8 is onnxruntime's here: add --runtimes onnx"),
        (("--precisions", "fp8"), "--precisions has 'fp8': choose among fp32, bf16, int8"),
        (("--runtimes", "jax"), "--runtimes has 'jax'"),
        (("--members", "0"), "--members is [0]: give values of at least 1"),
        (("--recipe", "bert-9"), "bert-9"),
        (("--reference", "bert-1-conv2"), "has a convolution front-end, which stock BERT has not"),
    ],
)
def test_bad_options_are_refused(capsys, words, said):
    assert said in refused(capsys, *WORDS, *words)
