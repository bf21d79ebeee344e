"""Faulty checkpoints of the paper's authors, and faulty imports of sound ones: one sentence, and nothing is written."""

import itertools
import shutil

import pytest
import torch
from helpers_commands import contents, refused
from helpers_paper import (
    BLOCK,
    COMMAND,
    CONFIG,
    KINDS,
    SIZE,
    TOKENS,
    WEIGHTS,
    author_tensors,
    import_checkpoint,
    open_imported,
    publish,
)
from safetensors.torch import save_file

from tlm_hf import TLMForMaskedLM
from tlm_hf.paper import import_weights as paper_weights


@pytest.fixture
def say(tmp_path, capsys):
    """Function `(*words)` that asserts a refusal which writes nothing anywhere, and returns the sentence."""

    def refuse(*words):
        before = contents(tmp_path), sorted(tmp_path.iterdir())
        sentence = refused(capsys, COMMAND, *words)
        assert (contents(tmp_path), sorted(tmp_path.iterdir())) == before
        return sentence

    return refuse


class TestRefusals:
    @pytest.mark.parametrize("kind", ["bert-6", "conv3", "wide classifier"])
    def test_tensors(self, say, tmp_path, kind):
        index = 1 if kind == "conv3" else 0
        inner = f"bert.encoder.layer.{index}.intermediate.dense.weight"
        words = "bert.embeddings.word_embeddings.weight"
        head = "classifier.weight" if kind == "wide classifier" else "cls.predictions.transform.dense.weight"
        hidden = (SIZE | KINDS[kind])["hidden"]
        for lost in (inner, words, head, "bert.embeddings.position_embeddings.weight"):
            folder, _ = publish(tmp_path / f"lacks {lost}", kind, remove=(lost,))
            sentence = say(folder, tmp_path / "out")
            assert f"1 tensor missing ({lost})" in sentence
        folder, _ = publish(tmp_path / "more", kind, tensors={"bert.extra.weight": torch.ones(3)})
        assert "1 tensor that no such model has (bert.extra.weight)" in say(folder, tmp_path / "out")
        for name, wrong in ((inner, (36, 7)), (words, (SIZE["vocab"], 7)), (head, (2, 7)), (inner, (36 * hidden,))):
            folder, _ = publish(tmp_path / f"wrong {name} {wrong}", kind, tensors={name: torch.ones(wrong)})
            sentence = say(folder, tmp_path / "out")
            assert name in sentence
            assert str(list(wrong)) in sentence

    def test_tensors_of_the_block(self, say, tmp_path):
        for lost in ("layers.3.weight", "layers.4.running_var", "conv.0.bias", "conv.1.num_batches_tracked"):
            folder, _ = publish(tmp_path / lost, "conv3", remove=(f"{BLOCK}.{lost}",))
            assert f"1 tensor missing ({BLOCK}.{lost})" in say(folder, tmp_path / "out")
        shapes = {"layers.3.weight": (3, 4, 3, 3), "layers.0.weight": (3, 1, 9), "layers.1.running_mean": (4,)}
        for name, shape in (shapes | {"conv.0.weight": (1, 3, 3, 3), "layers.6.weight": (2, 3, 3, 3)}).items():
            folder, _ = publish(tmp_path / f"wrong {name}", "conv3", tensors={f"{BLOCK}.{name}": torch.ones(shape)})
            sentence = say(folder, tmp_path / "out")
            assert f"of a wrong shape ({BLOCK}.{name}, which is {list(shape)}" in sentence
        folder, _ = publish(tmp_path / "more", "conv3", tensors={f"{BLOCK}.layers.8.weight": torch.ones(3)})
        assert f"{BLOCK}.layers.8.weight" in say(folder, tmp_path / "out")

    def test_many_tensors_are_counted(self, say, tmp_path):
        lost = [name for name in author_tensors("bert-6") if ".layer.3." in name]
        folder, _ = publish(tmp_path / "middle", "bert-6", remove=lost)
        sentence = say(folder, tmp_path / "out")
        assert "16 tensors missing (bert.encoder.layer.3." in sentence
        assert "and 13 more)" in sentence
        folder, _ = publish(
            tmp_path / "last", "bert-6", remove=[name.replace(".layer.3.", ".layer.5.") for name in lost]
        )
        sentence = say(folder, tmp_path / "out")
        assert "bert.encoder.layer.5.* is missing" in sentence
        block = [name for name in author_tensors("conv2") if name.startswith(BLOCK)]
        folder, _ = publish(tmp_path / "dropped", "conv2", remove=block)
        assert "bert.encoder.layer.0." in say(folder, tmp_path / "out")

    def test_values(self, say, tmp_path):
        name = f"{BLOCK}.layers.1.running_var"
        for index, value in enumerate((torch.full((5,), float("nan")), torch.ones(5, dtype=torch.int64))):
            folder, _ = publish(tmp_path / f"odd-{index}", "conv2", tensors={name: value})
            assert f"no finite numbers ({name})" in say(folder, tmp_path / "out")
        folder, _ = publish(tmp_path / "negative", "conv2", tensors={name: torch.full((5,), -1.0)})
        assert "differ" in say(folder, tmp_path / "out")
        name = "cls.predictions.decoder.weight"
        folder, _ = publish(tmp_path / "untied", "bert-6", tensors={name: torch.ones((SIZE["vocab"], SIZE["hidden"]))})
        assert name in say(folder, tmp_path / "out")

    def test_files(self, say, tmp_path):
        whole, _ = publish(tmp_path / "whole", "conv2")
        damaged = {}
        for name, file, content in (
            ("truncated", WEIGHTS, (whole / WEIGHTS).read_bytes()[:-100]),
            ("stub", WEIGHTS, b"version https://git-lfs"), ("no-weights", WEIGHTS, None), ("no-config", CONFIG, None),
            ("broken", CONFIG, b"{"), ("list", CONFIG, b"[]"), ("gpt2", CONFIG, b'{"model_type": "gpt2"}'),
            ("nothing", CONFIG, b"{}"), ("ours", CONFIG, b'{"model_type": "tlm"}'),
        ):  # fmt: skip
            damaged[name] = shutil.copytree(whole, tmp_path / name)
            (damaged[name] / file).unlink()
            if content is not None:
                (damaged[name] / file).write_bytes(content)
        sentences = {name: say(folder, tmp_path / "out") for name, folder in damaged.items()}
        for name in damaged:
            assert name in sentences[name]
        for name in ("truncated", "stub"):
            assert "truncated or damaged" in sentences[name]
        assert "no config.json" in sentences["no-config"]
        assert "'gpt2'" in sentences["gpt2"]
        assert "already" in sentences["ours"]
        other, _ = publish(
            tmp_path / "other", "conv2", remove=author_tensors("conv2"), tensors={"h.0.w": torch.ones(1)}
        )
        save_file({"transformer.h.0.weight": torch.ones(1)}, other / WEIGHTS)
        assert "not a BERT's" in say(other, tmp_path / "out")
        heads = [name for name in author_tensors("conv2") if name.startswith("cls.")]
        neither, _ = publish(tmp_path / "neither", "conv2", remove=heads)
        assert "neither head" in say(neither, tmp_path / "out")
        both, _ = publish(tmp_path / "both", "conv2", tensors={"classifier.weight": torch.ones((2, SIZE["hidden"]))})
        assert "both heads" in say(both, tmp_path / "out")
        assert "missing" in say(tmp_path / "missing", tmp_path / "out")
        assert WEIGHTS in say(tmp_path / "whole" / WEIGHTS, tmp_path / "out")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("num_attention_heads", value) for value in (5, 0, -3, "3", None, True, 2.0)),
            *(("num_hidden_layers", value) for value in (1, 3, 10**9, None)),
            *(("vocab_size", 41), ("hidden_size", 25), ("intermediate_size", 96), ("max_position_embeddings", 128)),
            *(("type_vocab_size", 1), ("hidden_act", "gelu_new"), ("position_embedding_type", "relative_key")),
            *(("is_decoder", True), ("tie_word_embeddings", False), ("hidden_dropout_prob", "much")),
            *(("hidden_dropout_prob", 1.5), ("layer_norm_eps", -1.0), ("initializer_range", -1)),
            ("problem_type", "foo"),
        ],
    )
    def test_configuration(self, say, tmp_path, field, value):
        folder, _ = publish(tmp_path / "published", "conv2", **{field: value})
        assert field in say(folder, tmp_path / "out")

    def test_without_a_number_of_heads(self, say, tmp_path):
        folder, _ = publish(tmp_path / "published", "bert-6", remove=("num_attention_heads",))
        assert "num_attention_heads" in say(folder, tmp_path / "out")

    @pytest.mark.parametrize("names", [{"0": "a", "1": "b"}, {str(i): "same" for i in range(4)}, ["a", "b", "c", "d"]])
    def test_labels(self, say, tmp_path, names):
        folder, _ = publish(tmp_path / "published", "conv2 classifier", id2label=names)
        assert "id2label" in say(folder, tmp_path / "out")

    def test_output(self, say, tmp_path, capsys):
        folder, _ = publish(tmp_path / "published", "conv2")
        full = tmp_path / "full"
        full.mkdir()
        (full / "thesis.doc").write_text("years of work", encoding="utf-8")
        assert "full" in say(folder, full)
        assert "thesis.doc" in say(folder, full / "thesis.doc")
        assert "published" in say(folder, folder)
        assert "thesis.doc" in say(folder, full / "thesis.doc" / "below")
        (tmp_path / "empty").mkdir()
        import_checkpoint(capsys, folder, tmp_path / "empty")
        open_imported(tmp_path / "empty")

    def test_command_line(self, say, tmp_path):
        folder, _ = publish(tmp_path / "published", "conv2")
        assert "OUTPUT" in say(folder)
        assert "FOLDER" in say()
        assert "'third'" in say(folder, tmp_path / "out", "third")
        assert "'--no-such-option'" in say(folder, tmp_path / "out", "--no-such-option", 1)

    def test_tokenizer(self, say, tmp_path):
        folder, _ = publish(tmp_path / "published", "conv2")
        vocabulary = tmp_path / "vocab.txt"
        vocabulary.write_text("\n".join(TOKENS[:-1]) + "\n", encoding="utf-8")
        assert "39 tokens" in say(folder, tmp_path / "out", "--tokenizer", vocabulary)
        assert "missing.txt" in say(folder, tmp_path / "out", "--tokenizer", tmp_path / "missing.txt")
        (folder / "tokenizer.json").write_text("{", encoding="utf-8")
        assert "published" in say(folder, tmp_path / "out")


def swapped(one, other):
    """A mapping of names that exchanges two parts of them."""
    original = paper_weights.our_name

    def rename(name, has_block):
        found = original(name, has_block)
        if one in found:
            return found.replace(one, other)
        return found.replace(other, one)

    return rename


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("bert-6", "attention.self.query", "attention.self.key"),
        ("bert-6", "encoder.layer.2.", "encoder.layer.5."),
        ("wide classifier", "bert.pooler.dense", "bert.encoder.layer.0.attention.output.dense"),
        ("conv3", "front_end.layers.1.", "front_end.layers.2."),
        ("conv3", "front_end.layers.1.batch_norm", "front_end.layers.0.batch_norm"),
        ("conv2", "batch_norm.running_mean", "batch_norm.bias"),
        ("conv2 classifier", "batch_norm.running_var", "batch_norm.weight"),
        ("conv2", "attention.output.LayerNorm", "front_end.nowhere"),
    ],
)
def test_a_wrong_mapping_is_refused_and_writes_nothing(say, tmp_path, monkeypatch, kind, one, other):
    folder, _ = publish(tmp_path / "published", kind)
    monkeypatch.setattr(paper_weights, "our_name", swapped(one, other))
    assert "is refused" in say(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *itertools.product(("bert-6", "wide classifier", "conv3"), ("activation", "epsilon", "token types")),
        *(("conv2", "padding"), ("conv2 classifier", "padding"), ("k16 of the text", "padding")),
    ],
)
def test_parity_notices_small_faults_of_the_model(say, tmp_path, monkeypatch, kind, fault):
    folder, _ = publish(tmp_path / "published", kind, layer_norm_eps=1e-3)
    original = paper_weights.build_model

    def build(checkpoint):
        model = original(checkpoint)
        if fault == "padding":
            model.config.conv_sees_padding = model.bert.front_end.sees_padding = False
        for module in model.modules():
            if fault == "activation" and hasattr(module, "intermediate_act_fn"):
                module.intermediate_act_fn = torch.nn.GELU(approximate="tanh")
            if fault == "epsilon" and isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-12
        if fault == "token types":
            with torch.no_grad():
                model.bert.embeddings.token_type_embeddings.weight[1] *= 1.001
        return model

    monkeypatch.setattr(paper_weights, "build_model", build)
    assert "is refused" in say(folder, tmp_path / "out")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, capsys):
    folder, _ = publish(tmp_path / "published", "bert-6")
    before = contents(tmp_path)

    def fail(self, target, **kwargs):
        (target / CONFIG).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TLMForMaskedLM, "save_pretrained", fail)
    assert "No space left" in refused(capsys, COMMAND, folder, tmp_path / "out")
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["published"]
