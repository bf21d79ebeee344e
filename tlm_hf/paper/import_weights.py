"""Models of the paper's authors (arXiv 2507.14871), as they publish them, imported into folders of ours.

`paper_checkpoint` reads and checks what they publish, `paper_parity` compares the imported model with it.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.tokenization import load_tokenizer
from ..errors import UserError
from ..models.configuration_tlm import TLMConfig
from ..models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification
from ..recipes import ARCHITECTURES, HEAD_SIZE
from .checkpoint import (
    AUTHORS_PAD_ID,
    BUFFERS,
    LAYER,
    TIED,
    PaperCheckpoint,
    check_checkpoint,
    open_checkpoint,
)
from .parity import check_parity

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")


@dataclass
class ImportArguments:
    """Options of `tlm import-paper-weights`."""

    folder: str = field(default="", metadata={"help": "FOLDER: config.json and model.safetensors of the authors."})
    output_dir: str = field(default="", metadata={"help": "OUTPUT: new folder for the model."})
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder, vocab.txt or Hub name of bert-base-uncased (default: FOLDER's own)."}
    )


def our_name(name: str, has_block: bool) -> str:
    """The name in our classes of a tensor that the authors call `name`."""
    if not has_block or not name.startswith(LAYER):
        return name
    index, _, rest = name.removeprefix(LAYER).partition(".")
    if index != "0":
        return f"{LAYER}{int(index) - 1}.{rest}"
    place, number, part = rest.split(".")
    if place == "conv":
        return f"bert.front_end.projection.{('convolution', 'batch_norm')[int(number)]}.{part}"
    layer, kind = divmod(int(number), 3)
    return f"bert.front_end.layers.{layer}.{('convolution', 'batch_norm')[kind]}.{part}"


def build_model(checkpoint: PaperCheckpoint) -> PreTrainedModel:
    """Our model with the checkpoint's weights, in evaluation mode.

    Raises:
        RuntimeError: when a tensor finds no place, or a place no tensor.
    """
    has_block = checkpoint.config.has_convolution
    state = {our_name(name, has_block): value for name, value in checkpoint.tensors.items() if name not in BUFFERS}
    model_class = TLMForSequenceClassification if "classifier.weight" in state else TLMForMaskedLM
    if model_class is TLMForMaskedLM:
        state |= {name: state[source] for name, source in TIED.items()}
    model = model_class(checkpoint.config)
    model.load_state_dict(state, strict=True)
    return model.eval()


def import_paper_weights(arguments: ImportArguments) -> dict[str, Any]:
    """Import a checkpoint of the paper's authors: `FOLDER OUTPUT`.

    Everything is checked, parity with the authors' description included (`paper_parity`), before the first file is
    written; the folder is made beside OUTPUT and renamed when it is whole. A convolution model is written with
    `conv_sees_padding`: it pads every text to `max_position_embeddings` by itself, so batching changes no output.

    Args:
        arguments: the options.

    Returns:
        `output`, `model` (its class), `recipe` (the paper's name of these shapes, or None), `parameters`, the shape,
        `labels` of a classifier, `parity` (see `check_parity`), and `notes`, a sentence each.

    Raises:
        UserError: bad input or a failed parity check; nothing was written then.
    """
    if not arguments.folder or not arguments.output_dir:
        raise UserError("import-paper-weights needs FOLDER (a checkpoint of the authors) and OUTPUT (a new folder).")
    folder, output = Path(arguments.folder).expanduser(), Path(arguments.output_dir).expanduser().resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"The output {arguments.output_dir} exists and is not an empty folder: name a new one.")
    fields, tensors = open_checkpoint(folder)
    tokenizer = _find_tokenizer(folder, arguments.tokenizer)
    pad_token_id = AUTHORS_PAD_ID if tokenizer is None else tokenizer.pad_token_id
    checkpoint = check_checkpoint(folder, fields, tensors, pad_token_id)
    config, notes = checkpoint.config, list(checkpoint.notes)
    if tokenizer is None:
        notes.append(
            f"No tokenizer was found in {folder}: the authors used bert-base-uncased; import again with --tokenizer "
            "google-bert/bert-base-uncased (or its vocab.txt, or a folder that holds it) to have it beside the model."
        )
    elif len(tokenizer) != config.vocab_size:
        raise UserError(
            f"The tokenizer of {arguments.tokenizer or folder} has {len(tokenizer)} tokens but the checkpoint a "
            f"vocabulary of {config.vocab_size}: name the one that it was trained with (--tokenizer)."
        )
    else:
        tokenizer.model_max_length = config.max_position_embeddings
    try:
        model = build_model(checkpoint)
        parity = check_parity(model, checkpoint.tensors, checkpoint.fields, str(folder))
    except (RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
        raise UserError(
            f"The import of {folder} is refused, since its tensors do not fit the model: {reason}."
        ) from error
    _write(output, model, tokenizer)
    kernels = config.conv_kernel_sizes or []
    classifier = isinstance(model, TLMForSequenceClassification)
    return {
        "output": str(arguments.output_dir),
        "model": type(model).__name__,
        "recipe": _recipe_name(config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        **({"conv_channels": config.conv_channels, "conv_kernel_sizes": kernels} if kernels else {}),
        **({"labels": list(config.id2label.values())} if classifier else {}),
        "parity": parity,
        "notes": notes,
    }


def _find_tokenizer(folder: Path, named: str | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer that the user names, or the folder's own, or None."""
    if named is not None:
        return load_tokenizer(named)
    return load_tokenizer(str(folder)) if any((folder / name).is_file() for name in TOKENIZER_FILES) else None


def _recipe_name(config: TLMConfig) -> str | None:
    """The recipe whose shapes at the paper's size these are, if any."""
    kernels = tuple((pair[0], pair[1]) for pair in config.conv_kernel_sizes or [])
    shape = config.num_hidden_layers, config.num_attention_heads, kernels, config.conv_channels
    for name, recipe in ARCHITECTURES.items():
        paper = recipe.num_hidden_layers, recipe.num_attention_heads, recipe.conv_kernel_sizes, recipe.conv_channels
        if shape == paper and config.hidden_size == HEAD_SIZE * config.num_attention_heads:
            return name
    return None


def _write(output: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Save beside `output` and rename, so that the folder is whole or absent."""
    partial = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        if output.is_dir():
            output.rmdir()
        partial.rename(output)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise UserError(f"The output {output} cannot be written ({reason}): name another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
