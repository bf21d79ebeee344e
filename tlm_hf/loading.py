"""Opening checkpoints for our own commands: checked first, so that a broken folder gives one sentence."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .data.embedded import model_folder, pretrained
from .data.tokenization import LONGEST_DEFAULT, load_tokenizer
from .errors import UserError, listed, refusing
from .models.combination_committee import SINGLE
from .models.configuration_committee import CommitteeConfig
from .models.configuration_tlm import TLMConfig
from .models.joining_committee import open_whole
from .models.modeling_committee import CommitteeForSequenceClassification
from .models.modeling_frozen import FrozenCommitteeForSequenceClassification
from .models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification
from .runs.atomic_files import Json, read_json
from .runs.provenance import portable_path

logger = logging.getLogger(__name__)
WEIGHTS, PICKLE = "model.safetensors", "pytorch_model.bin"
RESTORE = "restore it, or name another one"
COMMITTEES: dict[str, Any] = {
    model.config_class.model_type: model
    for model in (CommitteeForSequenceClassification, FrozenCommitteeForSequenceClassification)
}


def read_config(source: str, needs_weights: bool = True) -> Json:
    """`config.json` of a folder or Hub name; UserError for no model, a broken config or weights, or an unknown kind."""
    folder = Path(model_folder(source)).expanduser()
    if folder.is_dir():
        check_folder(folder, needs_weights)
    elif folder.exists() or source.count("/") != 1 or source.startswith((".", "/", "~")):
        embedded = "".join(f", {name}" for name in pretrained())
        raise UserError(f"The model {source!r} is neither a folder nor a Hub name (owner/name{embedded}).")
    what, remedy = f"The model {source!r} cannot be opened", RESTORE
    if not folder.is_dir():
        what = f"There is no model {source!r}: no such folder is here, and the Hub lookup failed"
        remedy = "train it first, or check the name"
    with refusing(what, remedy, OSError, ValueError):
        config, _ = TLMConfig.get_config_dict(model_folder(source))
    known = ("bert", TLMConfig.model_type, *COMMITTEES)
    if config.get("model_type") not in known:
        raise UserError(f"The model {source!r} is of type {config.get('model_type')!r}; known are {', '.join(known)}.")
    if config["model_type"] in COMMITTEES:
        return config
    checked = _build_config(source, config)  # a stock config.json need not name what equals BERT's defaults
    return {name: getattr(checked, name) for name in ("vocab_size", "max_position_embeddings")} | config


def read_encoder_config(source: str, needs_weights: bool = True) -> Json:
    """`read_config` of something that can be fine-tuned; raises UserError for a committee too."""
    config = read_config(source, needs_weights)
    if config["model_type"] in COMMITTEES:
        raise UserError(f"The model {source!r} is a committee: fine-tune its members one by one.")
    return config


def check_folder(folder: Path, needs_weights: bool = True) -> None:
    """Raise UserError unless `folder` holds a readable config and, where they are needed, whole safetensors weights."""
    if not (folder / "config.json").is_file():
        unfinished = " (its training has not finished)" if (folder / "run.json").is_file() else ""
        raise UserError(f"The model folder {folder} has no config.json{unfinished}: name a folder that holds a model.")
    read_json(folder / "config.json")
    files = sorted(folder.glob("model-*.safetensors")) or [folder / WEIGHTS]
    for file in files if needs_weights else []:
        if not file.is_file():
            words = f"has no {file.name}: restore it from where the model came"
            if any(folder.glob("onnx/*.onnx")):
                words = "is an ONNX export: name the model that it was made from"
            if (folder / PICKLE).is_file():
                words = f"holds {PICKLE}, a pickle that may run code: if you trust it, save it again with transformers"
            raise UserError(f"The model folder {folder} {words}.")
        damage = refusing(f"The weights {file} are truncated or damaged", "restore them", SafetensorError, OSError)
        with damage, safe_open(file, framework="pt") as opened:
            opened.keys()


def weights_hash(source: str) -> str:
    """SHA-256 of a folder's weights, or the Hub name itself."""
    digest = hashlib.sha256()
    files = sorted(Path(model_folder(source)).expanduser().glob("*.safetensors"))
    for file in files:
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest() if files else source


def load_masked_lm(source: str, **changes: Any) -> PreTrainedModel:
    """Masked language model in evaluation mode, with changes of its configuration; raises UserError for a committee."""
    if read_config(source)["model_type"] in COMMITTEES:
        raise UserError(f"The model {source!r} is a committee, which has no language-model head.")
    return _load(TLMForMaskedLM, source, ("cls.predictions.decoder",), **changes).eval()


def load_classifier(source: str) -> PreTrainedModel:
    """Classifier or committee (frozen or not) in evaluation mode; raises UserError where there is no classifier."""
    config = read_config(source)
    if config["model_type"] in COMMITTEES:
        return _load(COMMITTEES[config["model_type"]], source, ()).eval()
    if not any("SequenceClassification" in name for name in config.get("architectures") or []):
        raise UserError(f"The model {source!r} is an encoder without a classifier: fine-tune it first (tlm finetune).")
    return _load(TLMForSequenceClassification, source, ()).eval()


def load_for_finetuning(
    source: str, labels: list[str], *, dropout: float, from_scratch: bool, **changes: Any
) -> TLMForSequenceClassification:
    """Encoder with a classifier for `labels` (new, unless it has just these), or the architecture with new weights."""
    fields = read_encoder_config(source, needs_weights=not from_scratch)
    numbers = {label: index for index, label in enumerate(labels)}
    changes = {"id2label": dict(enumerate(labels)), "label2id": numbers, "problem_type": SINGLE, **changes}
    changes |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = _build_config(source, fields, **changes)
    if from_scratch:
        return TLMForSequenceClassification(config)
    model = _load(TLMForSequenceClassification, source, ("classifier.", "bert.pooler."), config=config)
    if list((fields.get("id2label") or {}).values()) != labels:
        # transformers keeps a classifier with as many labels, though it was trained on others.
        torch.nn.init.normal_(model.classifier.weight, std=config.initializer_range)
        torch.nn.init.zeros_(model.classifier.bias)
    return model


def match_labels(model: PreTrainedModel, source: str, task: str, names: list[str]) -> np.ndarray:
    """The model's number of each of a task's classes, by name (classes,); UserError for a class that it lacks."""
    known = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if not set(names) <= set(known):
        words = f"The model {source!r} knows the labels {listed(known)} but the task {task!r} has {listed(names)}"
        raise UserError(f"{words}: name the task that it was fine-tuned on.")
    return np.array([known.index(name) for name in names])


def trained_on_another_split(source: str, *task_sha256: str) -> bool:
    """Whether the folder's own results say that it was fine-tuned on other rows than the tasks with these hashes."""
    return _own_results(source).get("settings", {}).get("task_sha256") not in (None, *task_sha256)


def trained_on_file(source: str, task: str) -> bool:
    """Whether the folder's own results say that it was trained on rows of this file or folder."""
    results = _own_results(source)
    return portable_path(task) in (results.get("task"), results.get("data"))


def _own_results(source: str) -> Json:
    file = Path(source).expanduser() / "results.json"
    return read_json(file) if file.is_file() else {}


def warn_of_pairs(source: str, texts: Sequence[Any]) -> None:
    """Say it where texts are single or pairs, and the folder's own results say that it was trained on the other."""
    results, are_pairs = _own_results(source), not isinstance(texts[0], str)
    words = "pairs, and these texts are single: give --text-pair-column"
    if are_pairs:
        words = "single texts, and these texts are pairs: leave out --text-pair-column"
    converted = results.get("kind") in ("export", "freeze")  # whose results do not say it
    if results and not converted and are_pairs != bool(results.get("task_options", results).get("text_pair_column")):
        logger.warning("The model %s was trained on %s.", source, words)


def load_matching_tokenizer(source: str, vocab_size: int) -> PreTrainedTokenizerBase:
    """A model's tokenizer; raises UserError where it has more tokens than the model."""
    tokenizer = load_tokenizer(source)
    if len(tokenizer) > vocab_size:
        words = f"The tokenizer {source!r} has {len(tokenizer)} tokens but its model has a vocabulary of {vocab_size}"
        raise UserError(f"{words}: use the tokenizer that the model was trained with.")
    return tokenizer


def longest_of_members(config: PreTrainedConfig) -> int:
    """The most tokens of a text that a classifier reads, or every member of a committee."""
    return min(part.max_position_embeddings for part in _members_of(config))


def load_classifier_tokenizer(source: str, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Tokenizer of a classifier or committee, which truncates to what it reads: its members, or its table of words."""
    longest = longest_of_members(model.config)
    tokenizer = load_matching_tokenizer(source, _members_of(model.config)[0].vocab_size)
    if getattr(model.config, "lexical_buckets", 0):
        longest = max(longest, LONGEST_DEFAULT)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return tokenizer


def _members_of(config: PreTrainedConfig) -> list[Any]:
    """Configurations of a committee's members, or of a classifier its own."""
    return config.build_member_configs() if isinstance(config, CommitteeConfig) else [config]


def _build_config(source: str, fields: Json, **changes: Any) -> TLMConfig:
    with refusing(f"The model {source!r} cannot be opened", RESTORE, StrictDataclassError):
        return TLMConfig.from_dict({**fields, "model_type": TLMConfig.model_type}, **changes)


def _load(model_class: Any, source: str, allowed_missing: tuple[str, ...], **kwargs: Any) -> PreTrainedModel:
    """`open_whole`, with missing or wrong-shaped weights as one sentence (new ones where that is allowed)."""
    kinds = (OSError, RuntimeError, ValueError, SafetensorError, StrictDataclassError)
    with refusing(f"The model {source!r} cannot be loaded", RESTORE, *kinds):
        return open_whole(model_class, model_folder(source), allowed_missing, **kwargs)
