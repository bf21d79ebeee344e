"""Faulty checkpoints of the paper's authors: one sentence that names the culprit, and nothing is written."""

import pytest
import torch
from conftest import refusal
from helpers_commands import contents, refused
from helpers_paper import BLOCK, CONFIG, SIZE, WEIGHTS, author_tensors, import_folder, publish

from tlm_hf import TLMForMaskedLM

WORDS = "bert.embeddings.word_embeddings.weight"
TELLS = {"num_hidden_layers": "layer.2.", "vocab_size": WORDS, "max_position_embeddings": "position_embeddings"}
TELLS["type_vocab_size"] = "token_type_embeddings"


@pytest.fixture
def say(tmp_path):
    """Function `(folder, output, tokenizer)` that asserts a refusal which writes nothing, and returns the sentence."""

    def refuse(folder, output=tmp_path / "out", tokenizer=None):
        before = contents(tmp_path), sorted(tmp_path.iterdir())
        said = refusal(import_folder, folder, output, tokenizer)
        assert (contents(tmp_path), sorted(tmp_path.iterdir())) == before
        return said

    return refuse


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bert-6", WORDS),
        ("bert-6", "bert.encoder.layer.5.intermediate.dense.weight"),
        ("wide classifier", "classifier.weight"),
        *(("conv3", f"{BLOCK}.{name}") for name in ("layers.4.running_var", "conv.1.num_batches_tracked")),
    ],
)
def test_missing_and_wrong_shaped_tensors(say, tmp_path, kind, name):
    folder, _ = publish(tmp_path / "lacks", kind, remove=(name,))
    assert f"no {name}" in say(folder)
    folder, _ = publish(tmp_path / "wrong", kind, tensors={name: torch.ones(2, 7, 1)})
    sentence = say(folder)
    assert name in sentence
    assert "[2, 7, 1]" in sentence


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bert-6", "bert.extra.weight"),
        ("conv3", f"{BLOCK}.layers.8.weight"),
        ("bert-6", "cls.predictions.decoder.weight"),  # not tied
    ],
)
def test_extra_tensors(say, tmp_path, kind, name):
    folder, _ = publish(tmp_path / "more", kind, tensors={name: torch.ones((SIZE["vocab"], SIZE["hidden"]))})
    assert name in say(folder)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (WEIGHTS, -100, "truncated or damaged"),
        (WEIGHTS, None, f"no {WEIGHTS}"),
        (CONFIG, b"[]", "JSON"),
        (CONFIG, b'{"model_type": "gpt2"}', "'gpt2'"),
        (CONFIG, b'{"model_type": "tlm"}', "already"),
    ],
)
def test_damaged_files(say, tmp_path, file, content, words):
    folder, _ = publish(tmp_path / "published", "conv2")
    whole = (folder / file).read_bytes()
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(whole[:content] if isinstance(content, int) else content)
    assert words in say(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("num_attention_heads", value) for value in (5, "3", None)),
        *(("num_hidden_layers", 3), ("vocab_size", 41), ("hidden_size", 25), ("max_position_embeddings", 128)),
        *(("type_vocab_size", 1), ("hidden_act", "gelu_new"), ("position_embedding_type", "relative_key")),
        *(("is_decoder", True), ("tie_word_embeddings", False), ("hidden_dropout_prob", "much")),
    ],
)
def test_configuration(say, tmp_path, field, value):
    folder, _ = publish(tmp_path / "published", "conv2 classifier", **{field: value})
    assert TELLS.get(field, field) in say(folder)


def test_output_and_command_line(say, tmp_path, capsys):
    folder, _ = publish(tmp_path / "published", "bert-6")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.doc").write_text("years of work", encoding="utf-8")
    for output in (full, full / "thesis.doc", folder):
        assert str(output) in say(folder, output)
    heads = [name for name in author_tensors("conv2") if name.startswith("cls.")]
    assert "no head" in say(publish(tmp_path / "neither", "conv2", remove=heads)[0])
    assert "missing.txt" in say(folder, tokenizer=tmp_path / "missing.txt")
    assert "'third'" in refused(capsys, "import-paper-weights", folder, tmp_path / "out", "third")


def test_a_failed_write_leaves_nothing(say, tmp_path, monkeypatch):
    folder, _ = publish(tmp_path / "published", "bert-6")

    def fail(self, target, **kwargs):
        (target / CONFIG).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TLMForMaskedLM, "save_pretrained", fail)
    assert "No space left" in say(folder)
