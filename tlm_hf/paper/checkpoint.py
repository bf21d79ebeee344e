"""Checkpoints as the paper's authors publish them (arXiv 2507.14871): read and checked, nothing written.

A checkpoint of theirs is a `config.json` of a `BertConfig` and a `model.safetensors`. Names are those of stock
`BertForMaskedLM` and `BertForSequenceClassification`, except that in a convolution model `bert.encoder.layer.0` is the
block before the transformer layers: `layers.{0,3,6}` convolutions, `layers.{1,4,7}` their BatchNorms, `conv.0` the 1x1
convolution, `conv.1` its BatchNorm; the transformer layers follow as `bert.encoder.layer.1` and on, and their
`num_hidden_layers` counts the block. Stock `from_pretrained` drops that block in silence; here a tensor that has no
place is refused. The architecture is read from names and shapes, save for the number of heads, which no shape tells.
"""

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file

from ..errors import UserError
from ..loading import WEIGHTS, check_folder
from ..models.configuration_tlm import TLMConfig
from ..recipes import HEAD_SIZE

AUTHORS_LENGTH = 128
"""Tokens to which the authors pad every text, and their convolutions see the padding."""
AUTHORS_PAD_ID = 0
"""[PAD] of bert-base-uncased, with which they pad. Their config.json may say 101, which is [CLS]."""
LAYER, BLOCK = "bert.encoder.layer.", "bert.encoder.layer.0."
EMBEDDINGS, DECODER = "bert.embeddings.", "cls.predictions.decoder."
TIED = {
    f"{DECODER}weight": f"{EMBEDDINGS}word_embeddings.weight",
    f"{DECODER}bias": "cls.predictions.bias",
}
"""May be absent, since they are other tensors under a second name."""
BUFFERS = (f"{EMBEDDINGS}position_ids",)
"""Of older transformers; stock BERT does not read them either."""
KEPT_FIELDS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "initializer_range", "layer_norm_eps",
    "problem_type",
)  # fmt: skip
FIXED_FIELDS = {"hidden_act": "gelu", "position_embedding_type": "absolute", "tie_word_embeddings": True}
FIXED_FIELDS |= {"is_decoder": False, "add_cross_attention": False}
"""What the authors' models have in common; another value would be another model."""
NAMED = 3
"""Tensors that a sentence names before it only counts."""


KEPT_RANGES = {
    "hidden_dropout_prob": (0.0, 1.0), "attention_probs_dropout_prob": (0.0, 1.0), "classifier_dropout": (0.0, 1.0),
    "initializer_range": (0.0, 10.0), "layer_norm_eps": (0.0, 0.1),
}  # fmt: skip
PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")


def _check_kept_fields(folder: Path, fields: Mapping[str, Any]) -> None:
    """Raise UserError for a kept field with a value that no model can have (types are the configuration's to check)."""
    for name, (lowest, highest) in KEPT_RANGES.items():
        value = fields.get(name)
        if isinstance(value, int | float) and not lowest <= value <= highest:
            raise UserError(
                f"The config.json of {folder} says {name} {value}, which is not within {lowest} and {highest}: restore "
                "it from where it came."
            )
    if fields.get("problem_type") not in PROBLEM_TYPES:
        raise UserError(
            f"The config.json of {folder} says problem_type {json.dumps(fields['problem_type'])}: choose one of "
            f"{', '.join(str(known) for known in PROBLEM_TYPES[1:])}, or leave it out."
        )


@dataclass(frozen=True)
class PaperArchitecture:
    """What the tensors of a checkpoint tell.

    Args:
        vocab_size, hidden_size, intermediate_size, type_vocab_size: as in `TLMConfig`.
        positions: rows of the position table, which may be longer than the texts that the authors used.
        num_hidden_layers: transformer layers, without the convolution block.
        kernels: (sequence, hidden) kernel size of each convolution; empty for a plain BERT.
        channels: of the convolutions; 0 for none.
        labels: rows of the classifier, or None for a masked language model.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    type_vocab_size: int
    positions: int
    num_hidden_layers: int
    kernels: tuple[tuple[int, int], ...]
    channels: int
    labels: int | None

    def expected_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of such a checkpoint by the authors' name, without the tied and the needless ones."""
        hidden, inner = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {}

        def dense(name: str, outputs: int, inputs: int) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

        def layer_norm(name: str) -> None:
            shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (hidden,)

        def convolution(name: str, norm: str, outputs: int, inputs: int, kernel: tuple[int, int]) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, *kernel), (outputs,)
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{norm}.{part}"] = (outputs,)
            shapes[f"{norm}.num_batches_tracked"] = ()

        for table, rows in (
            ("word", self.vocab_size), ("position", self.positions), ("token_type", self.type_vocab_size)
        ):  # fmt: skip
            shapes[f"{EMBEDDINGS}{table}_embeddings.weight"] = (rows, hidden)
        layer_norm(f"{EMBEDDINGS}LayerNorm")
        for index, kernel in enumerate(self.kernels):
            names = f"{BLOCK}layers.{3 * index}", f"{BLOCK}layers.{3 * index + 1}"
            convolution(*names, self.channels, self.channels if index else 1, kernel)
        if self.kernels:
            convolution(f"{BLOCK}conv.0", f"{BLOCK}conv.1", 1, self.channels, (1, 1))
        first = 1 if self.kernels else 0
        for index in range(first, first + self.num_hidden_layers):
            layer = f"{LAYER}{index}."
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                dense(f"{layer}attention.{part}", hidden, hidden)
            layer_norm(f"{layer}attention.output.LayerNorm")
            dense(f"{layer}intermediate.dense", inner, hidden)
            dense(f"{layer}output.dense", hidden, inner)
            layer_norm(f"{layer}output.LayerNorm")
        if self.labels is not None:
            dense("bert.pooler.dense", hidden, hidden)
            dense("classifier", self.labels, hidden)
        else:
            dense("cls.predictions.transform.dense", hidden, hidden)
            layer_norm("cls.predictions.transform.LayerNorm")
            shapes["cls.predictions.bias"] = (self.vocab_size,)
        return shapes


def infer_architecture(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> PaperArchitecture:
    """Read the architecture from names and shapes.

    Where tensors contradict each other the size that most of them have is taken, and `config` has the last of the
    votes, so that the odd one is what `check_tensors` names.
    """

    def vote(field: str, *candidates: tuple[str, int], fallback: int = 1) -> int:
        sizes = [tensors[name].shape[dim] for name, dim in candidates if name in tensors and tensors[name].dim() > dim]
        given = config.get(field)
        sizes += [given] if type(given) is int and given > 0 else []
        return statistics.mode(sizes) if sizes else fallback

    tables = {name: f"{EMBEDDINGS}{name}_embeddings.weight" for name in ("word", "position", "token_type")}
    hidden = vote(
        "hidden_size", *((name, 1) for name in tables.values()), (f"{EMBEDDINGS}LayerNorm.weight", 0),
    )  # fmt: skip
    indices = [int(found[1]) for name in tensors if (found := re.match(r"bert\.encoder\.layer\.(\d{1,3})\.", name))]
    inner = [(f"{LAYER}{index}.intermediate.dense.{part}", 0) for index in indices for part in ("weight", "bias")]
    places = [
        int(found[1]) for name in tensors if (found := re.match(rf"{re.escape(BLOCK)}layers\.(\d{{1,3}})\.", name))
    ]
    has_block = any(name.startswith((f"{BLOCK}layers.", f"{BLOCK}conv.")) for name in tensors)
    weights = (
        [f"{BLOCK}layers.{place}.weight" for place in range(0, max(places, default=0) + 1, 3)] if has_block else []
    )
    is_picture = [name in tensors and tensors[name].dim() == 4 for name in weights]
    kernels = tuple(
        (tensors[name].shape[2], tensors[name].shape[3]) if known else (3, 3)
        for name, known in zip(weights, is_picture, strict=True)
    )
    channels = vote("", *((name, 0) for name in weights), *((name.replace("weight", "bias"), 0) for name in weights))
    labels = None
    if any(name.startswith("classifier.") for name in tensors):
        labels = vote("", ("classifier.weight", 0), ("classifier.bias", 0))
    return PaperArchitecture(
        vocab_size=vote("vocab_size", (tables["word"], 0), ("cls.predictions.bias", 0)),
        hidden_size=hidden,
        intermediate_size=vote("intermediate_size", *inner, fallback=4 * hidden),
        type_vocab_size=vote("type_vocab_size", (tables["token_type"], 0)),
        positions=vote("max_position_embeddings", (tables["position"], 0)),
        num_hidden_layers=max(1, max(indices, default=0) + (0 if has_block else 1)),
        kernels=kernels,
        channels=channels if has_block else 0,
        labels=labels,
    )


def _named(names: Iterable[str]) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def check_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], architecture: PaperArchitecture) -> None:
    """Refuse missing, extra and wrong-shaped tensors, values that are no numbers, and a decoder that is not tied.

    Raises:
        UserError: one sentence, which names the first few of each kind and counts the rest.
    """
    expected = architecture.expected_shapes()
    tied = {
        name: expected[source] for name, source in TIED.items() if source in expected and architecture.labels is None
    }
    missing = [name for name in expected if name not in tensors]
    extra = sorted(name for name in tensors if name not in expected and name not in tied and name not in BUFFERS)
    wrong = [
        f"{name}, which is {list(tensors[name].shape)} and not {list(shape)}"
        for name, shape in {**expected, **tied}.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    faults = [
        f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} {what} ({_named(names)})"
        for names, what in ((missing, "missing"), (extra, "that no such model has"), (wrong, "of a wrong shape"))
        if names
    ]
    advice = "restore it from where it came."
    if faults:
        raise UserError(f"The checkpoint {folder} has {', and '.join(faults)}: {advice}")
    counters = [name for name in expected if name.endswith("num_batches_tracked")]
    odd = [name for name in (*expected, *tied) if name in tensors and name not in counters]
    odd = [name for name in odd if not tensors[name].is_floating_point() or not tensors[name].isfinite().all()]
    if odd:
        raise UserError(f"The checkpoint {folder} has tensors that hold no finite numbers ({_named(odd)}): {advice}")
    for name, source in TIED.items():
        if name in tied and name in tensors and not torch.equal(tensors[name], tensors[source]):
            raise UserError(
                f"The checkpoint {folder} has a {name} other than its {source}, to which it is tied: {advice}"
            )


def check_config(folder: Path, config: Mapping[str, Any], architecture: PaperArchitecture) -> None:
    """Refuse a `config.json` that contradicts the tensors, or that asks for what the authors' models are not.

    Raises:
        UserError: one sentence, which names the field.
    """
    blocks = 1 if architecture.kernels else 0
    layers = architecture.num_hidden_layers + blocks
    told = {
        "vocab_size": architecture.vocab_size, "hidden_size": architecture.hidden_size, "num_hidden_layers": layers,
        "intermediate_size": architecture.intermediate_size, "type_vocab_size": architecture.type_vocab_size,
        "max_position_embeddings": architecture.positions,
    }  # fmt: skip
    for name, value in told.items():
        given = config.get(name, value)
        if given != value:
            details = ""
            if name == "num_hidden_layers":
                details = " (with the convolution block)" if blocks else ""
                details += f"; {LAYER}{layers}.* is missing" if isinstance(given, int) and given > layers else ""
            raise UserError(
                f"The config.json of {folder} says {name} {json.dumps(given)} but its tensors say {value}{details}: "
                "restore both from where they came."
            )
    for name, required in FIXED_FIELDS.items():
        if config.get(name, required) != required:
            raise UserError(
                f"The config.json of {folder} says {name} {json.dumps(config[name])}, but the authors' models have "
                f"{json.dumps(required)}: import only checkpoints of theirs."
            )
    heads = config.get("num_attention_heads")
    if type(heads) is not int or heads < 1 or architecture.hidden_size % heads:
        raise UserError(
            f"The config.json of {folder} says num_attention_heads {json.dumps(heads)}, which must divide the hidden "
            f"size {architecture.hidden_size} and cannot be told from shapes: restore it from where it came."
        )


def _label_names(folder: Path, config: Mapping[str, Any], labels: int) -> dict[int, str]:
    """`id2label` of the configuration by number, or LABEL_0 and on where it has none."""
    given = config.get("id2label")
    if not given:
        return {index: f"LABEL_{index}" for index in range(labels)}
    try:
        names = {int(index): str(name) for index, name in given.items()}
    except (AttributeError, ValueError):
        names = {}
    if sorted(names) != list(range(labels)) or len(set(names.values())) != labels:
        raise UserError(
            f"The config.json of {folder} has an id2label that does not name the {labels} rows of classifier.weight: "
            "correct it, or remove it to number them."
        )
    return dict(sorted(names.items()))


@dataclass(frozen=True)
class PaperCheckpoint:
    """A checkpoint of the authors that has passed every check but parity.

    Args:
        tensors: float32 (counters int64), by the authors' names; the position table cut where `notes` say so.
        config: of our model.
        fields: of `config.json`.
        notes: what the user should know, a sentence each.
    """

    tensors: dict[str, torch.Tensor]
    config: TLMConfig
    fields: Mapping[str, Any]
    notes: list[str]


def open_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The fields of `config.json` and the tensors by name.

    Raises:
        UserError: no such folder, a missing or damaged file, or something that is not a BERT with one head.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: name one that holds config.json and {WEIGHTS}.")
    check_folder(folder)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"The folder {folder} has no {WEIGHTS}: the authors' weights are that one file.")
    fields, tensors = json.loads((folder / "config.json").read_text(encoding="utf-8")), load_file(folder / WEIGHTS)
    kind = fields.get("model_type", "unknown")
    if kind != "bert":
        already = " (it is a folder of ours already)" if kind in ("tlm", "tlm_committee") else ""
        raise UserError(f"The model in {folder} is of type {kind!r}{already}: name a BERT of the authors.")
    if not any(name.startswith(EMBEDDINGS) for name in tensors):
        raise UserError(
            f"The weights in {folder} are not a BERT's, without any {EMBEDDINGS}*: name one of the authors'."
        )
    heads = [head for head in ("cls.predictions", "classifier") if any(name.startswith(f"{head}.") for name in tensors)]
    if len(heads) != 1:
        which = "both heads" if heads else "neither head"
        raise UserError(
            f"The weights in {folder} have {which} of cls.predictions.* (language model) and classifier.*: name a "
            "checkpoint with one of them."
        )
    return fields, tensors


def check_checkpoint(
    folder: Path, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], pad_token_id: int = AUTHORS_PAD_ID
) -> PaperCheckpoint:
    """Check everything but parity, and derive our configuration.

    Args:
        folder: where they come from, for the sentences.
        fields: of `config.json`.
        tensors: by the authors' names.
        pad_token_id: [PAD] of the tokenizer. A convolution model's output depends on it.

    Raises:
        UserError: tensors that are missing, extra, wrong-shaped or at odds with `config.json`, or a configuration that
            the authors' models do not have.
    """
    architecture = infer_architecture(tensors, fields)
    check_tensors(folder, tensors, architecture)
    check_config(folder, fields, architecture)
    _check_kept_fields(folder, fields)
    notes = []
    tensors = dict(tensors)
    positions = architecture.positions
    if architecture.kernels and positions > AUTHORS_LENGTH:
        positions = AUTHORS_LENGTH
        name = f"{EMBEDDINGS}position_embeddings.weight"
        tensors[name] = tensors[name][:positions].clone()
        notes.append(
            f"The {architecture.positions} positions were cut to {positions}: the authors pad every text to that many "
            "tokens, and their convolutions see the padding."
        )
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors.values()):
        notes.append("The weights were stored in another precision and are written in float32.")
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if fields.get("pad_token_id", pad_token_id) != pad_token_id:
        given = json.dumps(fields["pad_token_id"])
        notes.append(f"The pad_token_id {given} of config.json became {pad_token_id}, the vocabulary's [PAD].")
    heads = fields["num_attention_heads"]
    if architecture.hidden_size != HEAD_SIZE * heads:
        notes.append(
            f"config.json says {heads} attention heads for hidden size {architecture.hidden_size}, but the paper's "
            f"heads have size {HEAD_SIZE}: the tensors cannot tell, so check it."
        )
    shape = {
        "vocab_size": architecture.vocab_size, "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.num_hidden_layers, "num_attention_heads": fields["num_attention_heads"],
        "intermediate_size": architecture.intermediate_size, "max_position_embeddings": positions,
        "type_vocab_size": architecture.type_vocab_size, "pad_token_id": pad_token_id,
    } | {name: fields[name] for name in KEPT_FIELDS if name in fields}  # fmt: skip
    if architecture.labels is not None:
        names = _label_names(folder, fields, architecture.labels)
        shape |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    block = {}
    if architecture.kernels:
        kernels = [list(pair) for pair in architecture.kernels]
        block = {"conv_channels": architecture.channels, "conv_kernel_sizes": kernels, "conv_sees_padding": True}
    try:
        config = TLMConfig(**shape, **block)
    except StrictDataclassError as error:
        # The library lists the types that it expected, in Python's words.
        odd = [f"{name} {json.dumps(fields[name])}" for name in KEPT_FIELDS if f"'{name}'" in str(error)]
        raise UserError(
            f"The config.json of {folder} says {', '.join(odd) or 'something'}, which is of a wrong type: restore it "
            "from where it came."
        ) from error
    return PaperCheckpoint(tensors, config, fields, notes)
