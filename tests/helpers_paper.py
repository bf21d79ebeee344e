"""Checkpoints as the paper's authors publish them, made tensor by tensor by their names, and what they compute.

`described_logits` is the oracle: stock BERT, and the convolution block written from the paper's description.
"""

import json
import math
import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from tlm_hf import TLMForMaskedLM, TLMForSequenceClassification
from tlm_hf.paper.import_weights import ImportArguments, import_paper_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"
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


def stock_model(kind, positions, pad=0):
    """Stock BERT of what is behind the convolution block."""
    size = SIZE | KINDS[kind]
    config = BertConfig(
        vocab_size=size["vocab"], hidden_size=size["hidden"], num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"], intermediate_size=size["inner"], pad_token_id=pad,
        max_position_embeddings=positions, num_labels=size.get("labels", 2),
    )  # fmt: skip
    return (BertForSequenceClassification if "labels" in size else BertForMaskedLM)(config).eval()


def renumbered(name, by):
    """A name with another number of its layer: the block is the authors' layer 0."""
    return re.sub(r"(?<=encoder\.layer\.)\d+", lambda number: str(int(number.group()) + by), name)


def author_tensors(kind, seed=0):
    """The tensors that the authors' code would save for such a model, drawn at random."""
    size = SIZE | KINDS[kind]
    rng, tensors = np.random.default_rng(seed), {}

    def put(name, *shape, around=0.0, scale=0.3):
        tensors[name] = torch.tensor(around + scale * rng.standard_normal(shape), dtype=torch.float32)

    def convolution(name, norm, outputs, inputs, kernel):
        put(f"{name}.weight", outputs, inputs, *kernel, scale=1 / math.sqrt(inputs * kernel[0] * kernel[1]))
        put(f"{norm}.weight", outputs, around=1.0)
        for vector in (f"{name}.bias", f"{norm}.bias", f"{norm}.running_mean"):
            put(vector, outputs)
        tensors[f"{norm}.running_var"] = torch.tensor(rng.uniform(0.2, 2, outputs), dtype=torch.float32)
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(int(rng.integers(1, 999)))

    for name, tensor in stock_model(kind, size["positions"]).state_dict().items():
        if "decoder" not in name:  # tied
            around = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            put(renumbered(name, bool(size["kernels"])), *tensor.shape, around=around)
    for index, kernel in enumerate(size["kernels"]):
        layer, norm = f"{BLOCK}.layers.{3 * index}", f"{BLOCK}.layers.{3 * index + 1}"
        convolution(layer, norm, size["channels"], size["channels"] if index else 1, kernel)
    if size["kernels"]:
        convolution(f"{BLOCK}.conv.0", f"{BLOCK}.conv.1", 1, size["channels"], (1, 1))
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
    folder.mkdir(parents=True)
    tensors = author_tensors(kind, seed) | (tensors or {})
    tensors = {name: tensor for name, tensor in tensors.items() if name not in remove}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {name: value for name, value in (author_config(kind) | fields).items() if name not in remove}
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder, tensors


def described_logits(kind, tensors, ids, types, pad_to, pad=0):
    """Logits of one text of an authors' model: stock BERT, with the block between its embeddings and its encoder.

    The block is written with torch.nn.functional from the paper's description. Padding is seen by the convolutions,
    and by nothing behind them.
    """
    size = SIZE | KINDS[kind]
    has_block = bool(size["kernels"])
    model = stock_model(kind, len(tensors["bert.embeddings.position_embeddings.weight"]), pad)
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    state = {renumbered(name, -has_block): tensor for name, tensor in tensors.items()
             if not (has_block and name.startswith(f"{BLOCK}."))}  # fmt: skip
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert all("decoder" in name for name in report.missing_keys)
    model.tie_weights()

    def convolve(picture, name, norm):
        picture = F.conv2d(picture, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding="same")
        statistics = [tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.gelu(F.batch_norm(picture, *statistics))

    length = len(ids)
    missing = pad_to - length
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")
        states = model.bert.embeddings(F.pad(ids, (0, missing), value=pad)[None], F.pad(types, (0, missing))[None])
        if has_block:
            picture = states[:, None]
            for index in range(len(size["kernels"])):
                picture = convolve(picture, f"{BLOCK}.layers.{3 * index}", f"{BLOCK}.layers.{3 * index + 1}")
            states = convolve(picture, f"{BLOCK}.conv.0", f"{BLOCK}.conv.1")[:, 0]
        states = model.bert.encoder(states[:, :length]).last_hidden_state
        return (model.classifier(model.bert.pooler(states)) if "labels" in size else model.cls(states))[0]


def check_logits(model, kind, tensors, batch, pad=0):
    with torch.no_grad():
        logits = model(**batch).logits
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        ids, types = (batch[name][row, :length] for name in ("input_ids", "token_type_ids"))
        pad_to = model.config.max_position_embeddings if kind in CONVOLUTIONAL else length
        expected = described_logits(kind, tensors, ids, types, pad_to, pad)
        found = logits[row, :length] if logits.dim() == 3 else logits[row]
        torch.testing.assert_close(found, expected, atol=1e-5 * (1 + expected.abs().max().item()), rtol=0)


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


def import_folder(folder, output, tokenizer=None):
    return import_paper_weights(
        ImportArguments(str(folder), str(output), None if tokenizer is None else str(tokenizer))
    )
