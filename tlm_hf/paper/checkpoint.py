"""Checkpoints as the paper's authors publish them (arXiv 2507.14871): read, checked and converted to ours in memory.

Names are those of stock BERT, except that in a convolution model `bert.encoder.layer.0` is the block before the
transformer layers, which `num_hidden_layers` counts: `layers.{0,3,6}` convolutions, `layers.{1,4,7}` their BatchNorms,
`conv.0` the 1x1 convolution, `conv.1` its BatchNorm. Shapes tell the architecture, save for the number of heads.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..errors import UserError
from ..loading import WEIGHTS, check_folder
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification
from ..recipes import HEAD_SIZE
from ..runs.atomic_files import Json, read_json

Tensors = Mapping[str, torch.Tensor]
AUTHORS_LENGTH, AUTHORS_PAD_ID = 128, 0
"""They pad every text to this length, which their convolutions see; config.json may say 101, [CLS], for [PAD]."""
LAYER, BLOCK, EMBEDDINGS = "bert.encoder.layer.", "bert.encoder.layer.0.", "bert.embeddings."
POSITIONS = f"{EMBEDDINGS}position_embeddings.weight"
TIED = {
    "cls.predictions.decoder.weight": f"{EMBEDDINGS}word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""May be absent, since they are other tensors under a second name."""
BUFFER = f"{EMBEDDINGS}position_ids"  # of older transformers; stock BERT does not read it either
SIZES = {
    "vocab_size": (f"{EMBEDDINGS}word_embeddings.weight", 0),
    "hidden_size": (f"{EMBEDDINGS}word_embeddings.weight", 1),
    "max_position_embeddings": (POSITIONS, 0),
    "type_vocab_size": (f"{EMBEDDINGS}token_type_embeddings.weight", 0),
}
"""Tensor and dimension that tell a field of the configuration."""
FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "tie_word_embeddings": True, "is_decoder": False}
"""What the authors' models have in common."""
COPIED = (
    "num_attention_heads problem_type hidden_dropout_prob attention_probs_dropout_prob classifier_dropout "
    "initializer_range layer_norm_eps"
)
"""Fields of their configuration that ours has too."""


def authors_name(name: str, has_block: bool) -> str:
    """The authors' name of a tensor that our model calls `name`."""
    if not has_block:
        return name
    if match := re.fullmatch(rf"{re.escape(LAYER)}(\d+)\.(.*)", name):
        return f"{LAYER}{int(match[1]) + 1}.{match[2]}"
    if match := re.fullmatch(r"bert\.front_end\.(?:layers\.(\d+)|projection)\.(convolution|batch_norm)\.(.*)", name):
        index, kind, part = match.groups()
        offset = 0 if kind == "convolution" else 1
        return f"{BLOCK}conv.{offset}.{part}" if index is None else f"{BLOCK}layers.{3 * int(index) + offset}.{part}"
    return name


def open_checkpoint(folder: Path) -> tuple[Json, Tensors]:
    """The fields of `config.json` and the tensors; UserError for what is not a whole BERT with one head."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: name one that holds config.json and {WEIGHTS}.")
    check_folder(folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"The folder {folder} has no {WEIGHTS}: the authors' weights are that one file.")
    fields, tensors = read_json(folder / "config.json"), load_file(folder / WEIGHTS)
    kind = fields.get("model_type", "unknown")
    if kind != "bert":
        already = " (an imported model already)" if kind in ("tlm", "tlm_committee") else ""
        raise UserError(f"The model in {folder} is of type {kind!r}{already}: name a BERT of the authors.")
    heads = [head for head in ("cls.predictions", "classifier") if any(name.startswith(f"{head}.") for name in tensors)]
    if len(heads) != 1:
        raise UserError(f"The weights in {folder} have {' and '.join(heads) or 'no'} head: name one of the authors'.")
    return fields, tensors


def build_model(
    folder: Path, fields: Json, tensors: Tensors, pad_token_id: int = AUTHORS_PAD_ID
) -> tuple[PreTrainedModel, list[str]]:
    """Our model of a checkpoint in float32 and evaluation mode, and what the user should know, a sentence each.

    A convolution model's output depends on `pad_token_id`, [PAD] of the tokenizer. Raises UserError for tensors or a
    configuration that the authors' models do not have.
    """
    has_block = any(name.startswith((f"{BLOCK}layers.", f"{BLOCK}conv.")) for name in tensors)
    shape = _read_sizes(folder, fields, tensors, has_block)
    config = _build_config(folder, fields, shape | {"pad_token_id": pad_token_id})
    model_class = TLMForSequenceClassification if "num_labels" in shape else TLMForMaskedLM
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in model_class(config).state_dict().items()}
    names = {name: authors_name(name, has_block) for name in expected}
    _check_tensors(folder, tensors, {names[name]: size for name, size in expected.items()})
    notes = _notes(fields, tensors, config)
    state = {name: tensors[TIED.get(theirs, theirs)] for name, theirs in names.items()}
    if has_block and config.max_position_embeddings > AUTHORS_LENGTH:
        config.max_position_embeddings = AUTHORS_LENGTH
        state[POSITIONS] = state[POSITIONS][:AUTHORS_LENGTH]
    model = model_class(config)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    model.load_state_dict(state)
    return model.eval(), notes


def _read_sizes(folder: Path, fields: Json, tensors: Tensors, has_block: bool) -> Json:
    """Fields of our configuration that shapes and names tell, checked against those of `config.json`."""

    def size(name: str, dimension: int, dimensions: int) -> int:
        shape = list(tensors[name].shape) if name in tensors else []
        if len(shape) != dimensions:
            fault = f"{name} of shape {shape}" if name in tensors else f"no {name}"
            raise UserError(f"The checkpoint {folder} has {fault}: restore it from where it came.")
        return shape[dimension]

    last = _last_number(LAYER, tensors)
    shape: Json = {field: size(name, dimension, 2) for field, (name, dimension) in SIZES.items()}
    shape["intermediate_size"] = size(f"{LAYER}{last}.intermediate.dense.weight", 0, 2)
    shape["num_hidden_layers"] = last + 1  # the block is counted by the authors
    for field, value in shape.items():
        if fields.get(field, value) != value:
            words = f"The config.json of {folder} says {field} {json.dumps(fields[field])}"
            raise UserError(f"{words} but its tensors say {value}: restore both from where they came.")
    if has_block:
        shape["num_hidden_layers"] -= 1
        numbers = range(0, _last_number(f"{BLOCK}layers.", tensors) + 1, 3)
        convolutions = [f"{BLOCK}layers.{number}.weight" for number in numbers]
        shape["conv_channels"] = size(convolutions[0], 0, 4)
        shape["conv_kernel_sizes"] = [[size(name, 2, 4), size(name, 3, 4)] for name in convolutions]
        shape["conv_sees_padding"] = True
    if any(name.startswith("classifier.") for name in tensors):
        shape["num_labels"] = size("classifier.weight", 0, 2)
    return shape


def _last_number(prefix: str, tensors: Tensors) -> int:
    """Largest number behind a prefix of names; 0 where there is none."""
    matches = [re.match(rf"{re.escape(prefix)}(\d{{1,3}})\.", name) for name in tensors]
    return max((int(match[1]) for match in matches if match), default=0)


def _build_config(folder: Path, fields: Json, shape: Json) -> TLMConfig:
    for name, required in FIXED.items():
        if fields.get(name, required) != required:
            words = f"The config.json of {folder} says {name} {json.dumps(fields[name])}"
            raise UserError(f"{words}, but the authors' models have {json.dumps(required)}: import only theirs.")
    values = {name: fields[name] for name in COPIED.split() if fields.get(name) is not None}
    if not values.get("num_attention_heads"):
        raise UserError(f"The config.json of {folder} has no num_attention_heads, which no shape tells: restore it.")
    names = fields.get("id2label") or {}
    if len(names) == shape.get("num_labels"):
        values |= {"id2label": names, "label2id": {name: int(index) for index, name in names.items()}}
    try:
        return TLMConfig(**shape, **values)
    except StrictDataclassError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"The config.json of {folder} cannot be read: {reason}") from error


def _check_tensors(folder: Path, tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse missing, extra and wrong-shaped tensors, and a decoder that is not tied."""
    faults = [f"no {name}" for name in expected if name not in tensors and name not in TIED]
    faults += [f"{name}, which no such model has" for name in sorted(set(tensors) - set(expected) - {BUFFER})]
    for name in [name for name in expected if name in tensors]:
        shape = tuple(tensors[name].shape)
        if shape != expected[name]:
            faults.append(f"{name} of shape {list(shape)}, not {list(expected[name])}")
        elif name in TIED and not torch.equal(tensors[name], tensors[TIED[name]]):
            faults.append(f"{name} that differs from {TIED[name]}")
    if faults:
        raise UserError(f"The checkpoint {folder} has {', '.join(faults[:3])}: restore it from where it came.")


def _notes(fields: Json, tensors: Tensors, config: TLMConfig) -> list[str]:
    """What the user should know about the import, a sentence each."""
    positions, heads, pad = config.max_position_embeddings, config.num_attention_heads, fields.get("pad_token_id")
    notes = []
    if config.has_convolution and positions > AUTHORS_LENGTH:
        notes.append(f"The {positions} positions were cut to {AUTHORS_LENGTH}, to which the authors pad every text.")
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors.values()):
        notes.append("The weights were stored in another precision and are written in float32.")
    if fields.get("pad_token_id", config.pad_token_id) != config.pad_token_id:
        notes.append(f"The pad_token_id {pad} of config.json became {config.pad_token_id}, the vocabulary's [PAD].")
    if config.hidden_size != HEAD_SIZE * heads:
        words = f"config.json says {heads} attention heads for hidden size {config.hidden_size}"
        notes.append(f"{words}, but the paper's heads have size {HEAD_SIZE}: the tensors cannot tell, so check it.")
    return notes
