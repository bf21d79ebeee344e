"""Checkpoints as the paper's authors publish them, made tensor by tensor by their names, and what they compute.

`described_logits` is the tests' own reading of the description, in numpy and float64; it shares nothing with the
forward pass that the import compares with.
"""

import json
import math

import numpy as np
import pytest
import torch
from helpers_commands import succeed
from safetensors.torch import save_file
from scipy.special import erf

from tlm_hf import TLMForMaskedLM, TLMForSequenceClassification

COMMAND, CONFIG, WEIGHTS = "import-paper-weights", "config.json", "model.safetensors"
BLOCK = "bert.encoder.layer.0"
SIZE = {"vocab": 40, "hidden": 24, "heads": 3, "inner": 36, "positions": 12, "types": 2, "layers": 1, "kernels": ()}
KINDS = {
    "bert-6": {"layers": 6},
    "wide classifier": {"labels": 3, "hidden": 48, "heads": 6},
    "conv2": {"kernels": ((3, 3), (3, 3)), "channels": 5},
    "conv2 classifier": {"kernels": ((3, 3), (3, 3)), "channels": 5, "labels": 4},
    "conv3": {"kernels": ((3, 3), (3, 3), (3, 3)), "channels": 3, "layers": 2},
    "k16 of the text": {"kernels": ((16, 16), (3, 3)), "channels": 4},
    "k16 of the code": {"kernels": ((16, 3), (16, 3)), "channels": 4},
}
CONVOLUTIONAL = [kind for kind, size in KINDS.items() if "kernels" in size]
BY_KIND = pytest.mark.parametrize("kind", KINDS)
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "river", "boat", "##s"] + [f"w{i}" for i in range(31)]


def author_tensors(kind, seed=0):
    """The tensors that the authors' code would save for such a model, drawn at random."""
    size = SIZE | KINDS[kind]
    hidden, inner, rng = size["hidden"], size["inner"], np.random.default_rng(seed)
    tensors = {}

    def put(name, *shape, around=0.0, scale=0.3):
        tensors[name] = torch.tensor(around + scale * rng.standard_normal(shape), dtype=torch.float32)

    def dense(name, outputs, inputs):
        put(f"{name}.weight", outputs, inputs)
        put(f"{name}.bias", outputs)

    def norm(name, width):
        put(f"{name}.weight", width, around=1.0)
        put(f"{name}.bias", width)

    def convolution(name, norm_name, outputs, inputs, kernel):
        put(f"{name}.weight", outputs, inputs, *kernel, scale=1 / math.sqrt(inputs * kernel[0] * kernel[1]))
        put(f"{name}.bias", outputs)
        norm(norm_name, outputs)
        put(f"{norm_name}.running_mean", outputs)
        tensors[f"{norm_name}.running_var"] = torch.tensor(rng.uniform(0.2, 2, outputs), dtype=torch.float32)
        tensors[f"{norm_name}.num_batches_tracked"] = torch.tensor(int(rng.integers(1, 999)))

    put("bert.embeddings.word_embeddings.weight", size["vocab"], hidden)
    put("bert.embeddings.position_embeddings.weight", size["positions"], hidden)
    put("bert.embeddings.token_type_embeddings.weight", size["types"], hidden)
    norm("bert.embeddings.LayerNorm", hidden)
    first = 0
    if size["kernels"]:
        first = 1
        for index, kernel in enumerate(size["kernels"]):
            inputs = size["channels"] if index else 1
            convolution(
                f"{BLOCK}.layers.{3 * index}", f"{BLOCK}.layers.{3 * index + 1}", size["channels"], inputs, kernel
            )
        convolution(f"{BLOCK}.conv.0", f"{BLOCK}.conv.1", 1, size["channels"], (1, 1))
    for index in range(first, first + size["layers"]):
        layer = f"bert.encoder.layer.{index}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{layer}.attention.{part}", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm", hidden)
        dense(f"{layer}.intermediate.dense", inner, hidden)
        dense(f"{layer}.output.dense", hidden, inner)
        norm(f"{layer}.output.LayerNorm", hidden)
    if "labels" in size:
        dense("bert.pooler.dense", hidden, hidden)
        dense("classifier", size["labels"], hidden)
    else:
        dense("cls.predictions.transform.dense", hidden, hidden)
        norm("cls.predictions.transform.LayerNorm", hidden)
        put("cls.predictions.bias", size["vocab"])
    return tensors


def author_config(kind):
    """`config.json` as their BertConfig writes it; their builder gives 101, [CLS], for pad_token_id."""
    size = SIZE | KINDS[kind]
    task = "SequenceClassification" if "labels" in size else "MaskedLM"
    config = {
        "architectures": [f"BertFor{task}"], "attention_probs_dropout_prob": 0.1, "classifier_dropout": None,
        "cls_token_id": 0, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": size["hidden"],
        "initializer_range": 0.02, "intermediate_size": size["inner"], "layer_norm_eps": 1e-12, "mask_token_id": 103,
        "max_position_embeddings": size["positions"], "model_type": "bert", "num_attention_heads": size["heads"],
        "num_hidden_layers": size["layers"] + bool(size["kernels"]), "pad_token_id": 101,
        "position_embedding_type": "absolute", "sep_token_id": 102, "torch_dtype": "float32",
        "transformers_version": "4.41.2", "type_vocab_size": size["types"], "use_cache": True,
        "vocab_size": size["vocab"],
    }  # fmt: skip
    if size.get("labels", 2) != 2:
        config["id2label"] = {str(index): f"LABEL_{index}" for index in range(size["labels"])}
        config["label2id"] = {f"LABEL_{index}": index for index in range(size["labels"])}
    return config


def publish(folder, kind, seed=0, tensors=None, remove=(), **fields):
    """Write a checkpoint as the authors publish it; returns its folder and its tensors."""
    folder.mkdir(parents=True)
    tensors = author_tensors(kind, seed) | (tensors or {})
    tensors = {name: tensor for name, tensor in tensors.items() if name not in remove}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {name: value for name, value in (author_config(kind) | fields).items() if name not in remove}
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder, tensors


def described_logits(tensors, ids, types, length, pad_to, heads=3, pad=0, epsilon=1e-12):
    """Logits of one text of an authors' model, in numpy: (length, vocabulary) or (labels,)."""
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in tensors.items()}

    def dense(states, name):
        return states @ weights[name + ".weight"].T + weights[name + ".bias"]

    def gelu(states):
        return states * 0.5 * (1 + erf(states / math.sqrt(2)))

    def layer_norm(states, name):
        centred = states - states.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return scaled * weights[name + ".weight"] + weights[name + ".bias"]

    def convolve(picture, name, norm):  # (channels, sequence, hidden); "same", with the odd zero at the end
        kernel = weights[name + ".weight"]
        around = [((extent - 1) // 2, extent - 1 - (extent - 1) // 2) for extent in kernel.shape[2:]]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(picture, [(0, 0), *around]), kernel.shape[2:], axis=(1, 2)
        )
        picture = np.einsum("cshab,ocab->osh", windows, kernel, optimize=True)

        def of_channel(values):
            return values[:, None, None]

        picture = picture + of_channel(weights[name + ".bias"])
        mean, variance = weights[norm + ".running_mean"], weights[norm + ".running_var"]
        picture = (picture - of_channel(mean)) / np.sqrt(of_channel(variance) + 1e-5)
        return gelu(picture * of_channel(weights[norm + ".weight"]) + of_channel(weights[norm + ".bias"]))

    is_block = any(name.startswith(BLOCK + ".conv.") for name in weights)
    ids = np.concatenate([ids[:length], np.full(pad_to - length, pad)])
    types = np.concatenate([types[:length], np.zeros(pad_to - length, dtype=int)])
    states = weights["bert.embeddings.word_embeddings.weight"][ids]
    states = states + weights["bert.embeddings.position_embeddings.weight"][:pad_to]
    states = layer_norm(
        states + weights["bert.embeddings.token_type_embeddings.weight"][types], "bert.embeddings.LayerNorm"
    )
    if is_block:
        picture = states[None]
        for place in (0, 3, 6):
            if f"{BLOCK}.layers.{place}.weight" in weights:
                picture = convolve(picture, f"{BLOCK}.layers.{place}", f"{BLOCK}.layers.{place + 1}")
        states = convolve(picture, BLOCK + ".conv.0", BLOCK + ".conv.1")[0]
    states = states[:length]  # attention never looks at padding
    for index in range(is_block, is_block + 9):
        layer = f"bert.encoder.layer.{index}"
        if layer + ".output.dense.bias" not in weights:
            break
        contexts = []
        query, key, value = (dense(states, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        for head in np.split(np.arange(states.shape[1]), heads):
            scores = query[:, head] @ key[:, head].T / math.sqrt(len(head))
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            contexts.append(scores / scores.sum(-1, keepdims=True) @ value[:, head])
        attended = dense(np.concatenate(contexts, axis=1), layer + ".attention.output.dense") + states
        attended = layer_norm(attended, layer + ".attention.output.LayerNorm")
        inner = gelu(dense(attended, layer + ".intermediate.dense"))
        states = layer_norm(dense(inner, layer + ".output.dense") + attended, layer + ".output.LayerNorm")
    if "classifier.weight" in weights:
        return dense(np.tanh(dense(states[0], "bert.pooler.dense")), "classifier")
    states = layer_norm(gelu(dense(states, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
    return states @ weights["bert.embeddings.word_embeddings.weight"].T + weights["cls.predictions.bias"]


def close(found, expected):
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert np.abs(found - expected).max() <= 1e-5 * (1 + np.abs(expected).max())


def ragged(lengths, width, seed=0):
    """ids, attention mask and token types of random texts, padded with [PAD]."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    values = rng.integers(1, SIZE["vocab"], mask.shape) * mask, mask, rng.integers(0, 2, mask.shape) * mask
    return dict(zip(("input_ids", "attention_mask", "token_type_ids"), map(torch.tensor, values), strict=True))


def open_imported(folder):
    name = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["architectures"][0]
    model_class = TLMForSequenceClassification if "SequenceClassification" in name else TLMForMaskedLM
    model, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def import_checkpoint(capsys, *words):
    """Run the command and return what it prints."""
    capsys.readouterr()
    succeed(COMMAND, *words)
    return json.loads(capsys.readouterr().out)
