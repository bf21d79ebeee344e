"""Models of the paper's authors (arXiv 2507.14871), as they publish them, imported into folders of ours."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from ..data.task_options import option
from ..data.tokenization import load_tokenizer
from ..errors import UserError
from ..models.modeling_tlm import TLMForSequenceClassification
from ..runs.atomic_files import Json, whole_folder
from .checkpoint import AUTHORS_PAD_ID, build_model, open_checkpoint

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
NO_TOKENIZER = "No tokenizer is beside the checkpoint: import again with --tokenizer google-bert/bert-base-uncased."


@dataclass
class ImportArguments:
    """Options of `tlm import-paper-weights`."""

    folder: str = option("", "FOLDER: config.json and model.safetensors of the authors.")
    output_dir: str = option("", "OUTPUT: new folder for the model.")
    tokenizer: str | None = option(None, "Folder, vocab.txt or Hub name of bert-base-uncased (default: FOLDER's own).")


def import_paper_weights(arguments: ImportArguments) -> Json:
    """Import a checkpoint of the paper's authors: `FOLDER OUTPUT`, which is whole or absent.

    A convolution model is written with `conv_sees_padding`: it pads every text to `max_position_embeddings` by itself,
    so batching changes no output.

    Returns:
        `output`, `model` (its class), `parameters`, `labels` of a classifier, and `notes`, a sentence each.
    """
    if not arguments.folder or not arguments.output_dir:
        raise UserError("import-paper-weights needs FOLDER (a checkpoint of the authors) and OUTPUT (a new folder).")
    folder, output = Path(arguments.folder).expanduser(), Path(arguments.output_dir).expanduser().resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"The output {arguments.output_dir} exists and is not an empty folder: name a new one.")
    fields, tensors = open_checkpoint(folder)
    has_own = any((folder / name).is_file() for name in TOKENIZER_FILES)
    source = arguments.tokenizer or (str(folder) if has_own else None)
    tokenizer = None if source is None else load_tokenizer(source)
    pad_token_id = AUTHORS_PAD_ID if tokenizer is None else tokenizer.pad_token_id
    model, notes = build_model(folder, fields, tensors, pad_token_id)
    config = model.config
    if tokenizer is None:
        notes.append(NO_TOKENIZER)
    elif len(tokenizer) > config.vocab_size:
        words = f"The tokenizer of {source} has {len(tokenizer)} tokens but the checkpoint {config.vocab_size}"
        raise UserError(f"{words}: name the one that it was trained with (--tokenizer).")
    else:
        tokenizer.model_max_length = config.max_position_embeddings
    try:
        with whole_folder(output) as draft:
            model.save_pretrained(draft)
            if tokenizer is not None:
                tokenizer.save_pretrained(draft)
            if output.is_dir():
                output.rmdir()  # an error where it is not empty
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise UserError(f"The output {output} cannot be written ({reason}): name another folder.") from error
    results = {"output": str(arguments.output_dir), "model": type(model).__name__, "parameters": model.num_parameters()}
    if isinstance(model, TLMForSequenceClassification):
        results["labels"] = list(config.id2label.values())
    return results | {"notes": notes}
