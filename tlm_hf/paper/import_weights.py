"""Checkpoints as the paper's authors publish them (arXiv 2507.14871): read, checked and written as folders of ours.

Names are those of stock BERT, except that in a convolution model `bert.encoder.layer.0` is the block before the
transformer layers, which `num_hidden_layers` counts: `layers.{0,3,6}` convolutions, `layers.{1,4,7}` their BatchNorms,
`conv.0` the 1x1 convolution, `conv.1` its BatchNorm.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..data.tokenization import load_tokenizer
from ..errors import UserError, refusing
from ..loading import WEIGHTS, check_folder
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification
from ..option_fields import option
from ..recipes import HEAD_SIZE
from ..runs.atomic_files import Json, read_json, whole_folder

Tensors = Mapping[str, torch.Tensor]
AUTHORS_LENGTH, AUTHORS_PAD_ID = 128, 0  # of their padding, which convolutions see; config.json may say 101
LAYER, BLOCK = "bert.encoder.layer.", "bert.encoder.layer.0."
POSITIONS = "bert.embeddings.position_embeddings.weight"
TIED = TLMForMaskedLM._tied_weights_keys  # may be absent, since they are other tensors under a second name
BUFFER = "bert.embeddings.position_ids"  # of older transformers; stock BERT does not read it either
# Fields of their configuration: those that must be there, others that ours has too, and what all their models share.
NEEDED = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings"
COPIED = (
    "type_vocab_size problem_type hidden_dropout_prob attention_probs_dropout_prob classifier_dropout "
    "initializer_range layer_norm_eps"
)
FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute", "tie_word_embeddings": True, "is_decoder": False}


@dataclass
class ImportArguments:
    """Options of `tlm import-paper-weights`."""

    folder: str = option("", "FOLDER: config.json and model.safetensors of the authors.")
    output_dir: str = option("", "OUTPUT: new folder for the model.")
    tokenizer: str | None = option(None, "Folder, vocab.txt or Hub name of bert-base-uncased (default: FOLDER's own).")


def import_paper_weights(arguments: ImportArguments) -> Json:
    """Import a checkpoint of the paper's authors: `FOLDER OUTPUT`, which is whole or absent.

    A convolution model is written with `conv_sees_padding`: it pads every text to `max_position_embeddings` by itself,
    so batching changes no output. Returns `output`, `model` (its class), `parameters`, `labels` if any, and `notes`.
    """
    if not arguments.folder or not arguments.output_dir:
        raise UserError("import-paper-weights needs FOLDER (a checkpoint of the authors) and OUTPUT (a new folder).")
    folder, output = Path(arguments.folder).expanduser(), Path(arguments.output_dir).expanduser().resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"The output {arguments.output_dir} exists and is not an empty folder: name a new one.")
    fields, tensors = _open_checkpoint(folder)
    has_own = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    source = arguments.tokenizer or (str(folder) if has_own else None)
    tokenizer = None if source is None else load_tokenizer(source)
    pad_token_id = AUTHORS_PAD_ID if tokenizer is None else tokenizer.pad_token_id
    model, notes = _build_model(folder, fields, tensors, pad_token_id)
    size = model.config.vocab_size
    if tokenizer is None:
        remedy = "import again with --tokenizer google-bert/bert-base-uncased"
        notes.append(f"No tokenizer is beside the checkpoint: {remedy}.")
    elif len(tokenizer) > size:
        words = f"The tokenizer of {source} has {len(tokenizer)} tokens but the checkpoint {size}"
        raise UserError(f"{words}: name the one that it was trained with (--tokenizer).")
    unwritable = refusing(f"The output {output} cannot be written", "name another folder", OSError, SafetensorError)
    with unwritable, whole_folder(output) as draft:
        model.save_pretrained(draft)
        if tokenizer is not None:
            tokenizer.model_max_length = model.config.max_position_embeddings
            tokenizer.save_pretrained(draft)
        if output.is_dir():
            output.rmdir()  # an error where it is not empty
    results = {"output": str(arguments.output_dir), "model": type(model).__name__, "parameters": model.num_parameters()}
    if isinstance(model, TLMForSequenceClassification):
        results["labels"] = list(model.config.id2label.values())
    return results | {"notes": notes}


def _open_checkpoint(folder: Path) -> tuple[Json, Tensors]:
    """The fields of `config.json` and the tensors; UserError for what is not a whole BERT with one head."""
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


def _build_model(folder: Path, fields: Json, tensors: Tensors, pad_token_id: int) -> tuple[PreTrainedModel, list[str]]:
    """Our model in float32 and evaluation mode, and notes; UserError for tensors that no such model has."""
    config = _build_config(folder, fields, tensors, pad_token_id)
    notes = _notes(fields, tensors, config)
    if config.has_convolution and config.max_position_embeddings > AUTHORS_LENGTH and POSITIONS in tensors:
        config.max_position_embeddings = AUTHORS_LENGTH
        tensors = {**tensors, POSITIONS: tensors[POSITIONS][:AUTHORS_LENGTH]}
    is_classifier = any(name.startswith("classifier.") for name in tensors)
    model = (TLMForSequenceClassification if is_classifier else TLMForMaskedLM)(config)
    names = {name: _authors_name(name, config.has_convolution) for name in model.state_dict()}
    expected = {names[name]: list(value.shape) for name, value in model.state_dict().items()}
    faults = [f"no {name}" for name in expected if name not in tensors and name not in TIED]
    faults += [f"{name}, which no such model has" for name in sorted(set(tensors) - set(expected) - {BUFFER})]
    for name, shape in ((name, list(tensors[name].shape)) for name in expected if name in tensors):
        if shape != expected[name]:
            faults.append(f"{name} of shape {shape}, by its config.json {expected[name]}")
        elif name in TIED and not torch.equal(tensors[name], tensors[TIED[name]]):
            faults.append(f"{name} that differs from {TIED[name]}")
    if faults:
        raise UserError(f"The checkpoint {folder} has {', '.join(faults[:3])}: restore it from where it came.")
    state = {name: tensors[TIED.get(theirs, theirs)] for name, theirs in names.items()}
    model.load_state_dict(state)  # copies into float32
    return model.eval(), notes


def _build_config(folder: Path, fields: Json, tensors: Tensors, pad_token_id: int) -> TLMConfig:
    """Our configuration by `config.json`; the shapes tell the convolutions and the number of labels."""
    missing = [name for name in NEEDED.split() if fields.get(name) is None]
    if missing:
        raise UserError(f"The config.json of {folder} has no {missing[0]}: restore it from where it came.")
    for name, required in FIXED.items():
        if fields.get(name, required) != required:
            words = f"The config.json of {folder} says {name} {json.dumps(fields[name])}"
            raise UserError(f"{words}, but the authors' models have {json.dumps(required)}: import only theirs.")
    values = {name: fields[name] for name in f"{NEEDED} {COPIED}".split() if fields.get(name) is not None}
    layers = [re.fullmatch(rf"{re.escape(BLOCK)}layers\.(\d+)\.weight", name) for name in tensors]
    weights = {int(match[1]): tensors[match[0]] for match in layers if match}
    shapes = [weights[number].shape for number in sorted(weights) if weights[number].dim() == 4]
    if shapes:  # the authors count the block as a layer
        values |= {"num_hidden_layers": values["num_hidden_layers"] - 1, "conv_sees_padding": True}
        values |= {"conv_channels": shapes[0][0], "conv_kernel_sizes": [list(shape[2:]) for shape in shapes]}
    labels = [len(tensor) for name, tensor in tensors.items() if name.startswith("classifier.")]
    names = fields.get("id2label") or {}
    if labels and len(names) == labels[0]:
        values |= {"id2label": names, "label2id": {name: int(index) for index, name in names.items()}}
    elif labels:
        values["num_labels"] = labels[0]
    with refusing(f"The config.json of {folder} cannot be read", "restore it as it was", StrictDataclassError):
        return TLMConfig(**values, pad_token_id=pad_token_id)


def _authors_name(name: str, has_block: bool) -> str:
    """The authors' name of a tensor that our model calls `name`."""
    if has_block and (match := re.fullmatch(rf"{re.escape(LAYER)}(\d+)\.(.*)", name)):
        return f"{LAYER}{int(match[1]) + 1}.{match[2]}"
    if match := re.fullmatch(r"bert\.front_end\.(?:layers\.(\d+)|projection)\.(convolution|batch_norm)\.(.*)", name):
        index, kind, part = match.groups()
        offset = 0 if kind == "convolution" else 1
        return f"{BLOCK}conv.{offset}.{part}" if index is None else f"{BLOCK}layers.{3 * int(index) + offset}.{part}"
    return name


def _notes(fields: Json, tensors: Tensors, config: TLMConfig) -> list[str]:
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
