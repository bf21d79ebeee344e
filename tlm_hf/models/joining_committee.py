# Copyright 2026 The tlm_hf contributors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What must hold for classifiers to vote together: opening them, comparing tokenizers and labels.

This file travels to the Hub as remote code; it needs torch and transformers only.
"""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.hub import cached_file

from .configuration_committee import CommitteeConfig
from .modeling_tlm import TLMForSequenceClassification


def open_member(member: str | os.PathLike | PreTrainedModel, position: int) -> TLMForSequenceClassification:
    """Load a folder or Hub name, or take a model over into our class (same weight names, so a stock BERT fits).

    Raises:
        ValueError: the member is a committee, no classifier, of another kind, or its folder is broken.
    """
    if isinstance(member, str | os.PathLike):
        member = _expand(member)
        fields = _read_config(member, position)
        kind, classes = fields.get("model_type"), fields.get("architectures") or []
    elif isinstance(member, PreTrainedModel):
        kind, classes = member.config.model_type, [type(member).__name__]
    else:
        raise ValueError(
            f"Member {position} is a {type(member).__name__}: give folders, Hub names or classifiers (of an adapted "
            "one what merge_and_unload() returns)."
        )
    if kind == CommitteeConfig.model_type:
        raise ValueError(f"Member {position} is itself a committee: pass its members instead.")
    if kind not in ("bert", TLMForSequenceClassification.config_class.model_type):
        raise ValueError(f"Member {position} is of type {kind!r}: members are BERT or tlm classifiers.")
    if not any(name.endswith("ForSequenceClassification") for name in classes):
        raise ValueError(f"Member {position} is an encoder without a classifier: fine-tune it first.")
    if isinstance(member, str | os.PathLike):
        return _load(os.fspath(member), position)
    return member if isinstance(member, TLMForSequenceClassification) else _take_over(member, position)


def _expand(source: str | os.PathLike) -> str:
    """The folder, `~` read as the home; a Hub name as it is."""
    folder = Path(source).expanduser()
    return str(folder) if folder.exists() else os.fspath(source)


def _read_config(source: str, position: int) -> dict[str, Any]:
    if not Path(source).exists() and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        raise ValueError(f"Member {position}, {source!r}, is neither a folder nor a Hub name (owner/name).")
    try:
        fields, _ = TLMForSequenceClassification.config_class.get_config_dict(source)
    except AttributeError as error:  # transformers takes what the file holds for a dictionary
        raise ValueError(_broken(source, position, "its config.json holds no dictionary")) from error
    except (OSError, ValueError) as error:
        raise ValueError(_broken(source, position, error)) from error
    return fields


def _load(source: str, position: int) -> TLMForSequenceClassification:
    try:
        # Shapes are compared below: transformers' own error is a report of many lines.
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = TLMForSequenceClassification.from_pretrained(source, **options)
    except Exception as error:  # a truncated file raises what safetensors defines
        raise ValueError(_broken(source, position, error.__cause__ or error)) from error
    if report["missing_keys"]:
        raise ValueError(_broken(source, position, f"it lacks the weights {sorted(report['missing_keys'])[0]}"))
    if report["mismatched_keys"]:
        name, found, expected = sorted(report["mismatched_keys"])[0]
        differing = f"{name} is {list(found)}, by its config.json it would be {list(expected)}"
        raise ValueError(_broken(source, position, differing))
    return model


def _broken(source: str, position: int, error: object) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return f"Member {position}, {source!r}, cannot be opened ({reason}): restore it from where it came."


def _take_over(member: PreTrainedModel, position: int) -> TLMForSequenceClassification:
    """Our class around the very parameters of a stock BERT."""
    try:
        config = TLMForSequenceClassification.config_class.from_dict(member.config.to_dict())
    except Exception as error:  # the validator's, whose cause is the sentence
        raise ValueError(f"Member {position} is no encoder that can vote: {error.__cause__ or error}") from error
    config._name_or_path = member.config._name_or_path
    with torch.device("meta"):
        ours = TLMForSequenceClassification(config)
    weights = dict(member.named_parameters())
    shapes = {name: weight.shape for name, weight in ours.named_parameters()}
    if {name: weight.shape for name, weight in weights.items()} != shapes:
        raise ValueError(
            f"Member {position} has other weights than a BERT classifier: merge its adapters (merge_and_unload), or "
            "pass the model that it was made from."
        )
    for name, weight in weights.items():
        module, _, leaf = name.rpartition(".")
        ours.get_submodule(module)._parameters[leaf] = weight
    return ours.train(member.training)


def check_tokenizers(sources: Sequence[Any]) -> None:
    """Refuse members with different tokenizers; those of which none is found are passed over.

    Args:
        sources: folders, Hub names, or models, whose tokenizer is looked for where they were loaded from.

    Raises:
        ValueError: the sentence names the first member that differs.
    """
    first: tuple[int, dict[str, Any]] | None = None
    for position, source in enumerate(sources):
        if isinstance(source, PreTrainedModel):
            source = source.config._name_or_path
            if not source or not Path(source).is_dir():
                continue
        if not isinstance(source, str | os.PathLike) or (found := _read_tokenizer(source, position)) is None:
            continue
        if first is None:
            first = (position, found)
        elif any(first[1][part] != found[part] for part in first[1].keys() & found.keys()):
            raise ValueError(
                f"Member {position} has another tokenizer than member {first[0]}: a committee reads its text once, so "
                "all members must be trained with one tokenizer."
            )


def _read_tokenizer(source: str | os.PathLike, position: int) -> dict[str, Any] | None:
    """What decides the tokens: `vocab`, and from tokenizer.json the `rest` but for padding and truncation."""
    for name in ("tokenizer.json", "vocab.txt"):
        try:
            file = cached_file(_expand(source), name, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return None
        if file is None:
            continue
        text = Path(file).read_text(encoding="utf-8")
        if name == "vocab.txt":
            return {"vocab": {word: place for place, word in enumerate(text.splitlines())}}
        try:
            content = json.loads(text)
            vocab = content["model"].pop("vocab")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(_broken(os.fspath(source), position, f"its {name} is damaged")) from error
        left_out = ("padding", "truncation", "version")
        return {"vocab": vocab, "rest": {key: value for key, value in content.items() if key not in left_out}}
    return None


def check_member(model: Any, position: int, first: Any) -> None:
    """Refuse a member that cannot vote with the first one.

    Raises:
        ValueError: no classifier of one label a text, or other labels, another size of vocabulary or another precision
            than the first.
    """
    problem = model.config.problem_type or ("regression" if model.config.num_labels == 1 else None)
    if problem not in (None, "single_label_classification"):
        raise ValueError(
            f"Member {position} was fine-tuned for {problem}: a soft committee averages class "
            "probabilities, so its members do single_label_classification."
        )
    names, wanted = (list(config.id2label.values()) for config in (model.config, first.config))
    if len(set(names)) < len(names):
        raise ValueError(f"Member {position} has a label twice among {names}: give each class a name of its own.")
    if sorted(names) != sorted(wanted):
        raise ValueError(
            f"Member {position} has the labels {names} but member 0 has {wanted}: all members must be fine-tuned on "
            "one task."
        )
    if model.config.vocab_size != first.config.vocab_size:
        raise ValueError(
            f"Member {position} has a vocabulary of {model.config.vocab_size} tokens but member 0 has "
            f"{first.config.vocab_size}: all members must share one tokenizer."
        )
    kind, other = (next(member.parameters()).dtype for member in (model, first))
    if kind != other:
        raise ValueError(
            f"Member {position} is in {kind} but member 0 in {other}: bring all members to one precision (model.to)."
        )


def in_label_order(model: Any, wanted: dict[int, str]) -> Any:
    """The member with its classes in the order of `wanted`: itself, or one that shares all but the classifier."""
    names = dict(model.config.id2label)
    if names == wanted:
        return model
    places = {name: index for index, name in names.items()}
    order = [places[wanted[index]] for index in range(len(wanted))]
    # Modules and configuration of its own around the same parameters and buffers.
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    permuted = copy.deepcopy(model, shared)
    permuted.config.id2label = dict(wanted)
    permuted.config.label2id = {name: index for index, name in wanted.items()}
    for name, weight in model.classifier.named_parameters():
        setattr(permuted.classifier, name, nn.Parameter(weight.detach()[order].clone(), weight.requires_grad))
    return permuted


__all__ = ["check_member", "check_tokenizers", "in_label_order", "open_member"]
