# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""What must hold for classifiers to form a committee: opening them, comparing tokenizers and labels."""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.hub import cached_file

from .combination_committee import REGRESSION, SINGLE
from .configuration_committee import CommitteeConfig
from .modeling_frozen import adapter_in
from .modeling_tlm import TLMForSequenceClassification


def open_member(
    member: str | os.PathLike | PreTrainedModel, position: int, options: Mapping[str, Any]
) -> TLMForSequenceClassification:
    """Load a folder or Hub name with `options` of `from_pretrained`, or take a model over into our class."""
    if isinstance(member, str | os.PathLike):
        return _load(member, position, options)
    if not isinstance(member, PreTrainedModel):
        words = "give folders, Hub names or classifiers (of an adapted one what merge_and_unload() returns)"
        raise ValueError(f"Member {position} is a {type(member).__name__}: {words}.")
    _check_kind(position, member.config.model_type, [type(member).__name__])
    return member if isinstance(member, TLMForSequenceClassification) else _take_over(member, position)


def _check_kind(position: int, kind: str | None, classes: Sequence[str]) -> None:
    if kind == CommitteeConfig.model_type:
        raise ValueError(f"Member {position} is itself a committee: pass its members instead.")
    if kind not in ("bert", TLMForSequenceClassification.config_class.model_type):
        raise ValueError(f"Member {position} is of type {kind!r}: members are BERT or tlm classifiers.")
    if not any(name.endswith("ForSequenceClassification") for name in classes):
        raise ValueError(f"Member {position} is an encoder without a classifier: fine-tune it first.")


def _load(member: str | os.PathLike, position: int, options: Mapping[str, Any]) -> TLMForSequenceClassification:
    source = os.fspath(member)
    if not Path(source).exists() and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        raise ValueError(f"Member {position}, {source!r}, is neither a folder nor a Hub name (owner/name).")
    try:
        fields, _ = TLMForSequenceClassification.config_class.get_config_dict(source, **options)
    except Exception as error:  # AttributeError where the file holds no dictionary
        raise _broken(member, position, error) from error
    _check_kind(position, fields.get("model_type"), fields.get("architectures") or [])
    try:
        return open_whole(TLMForSequenceClassification, source, **options)
    except Exception as error:  # a truncated file raises what safetensors defines
        raise _broken(member, position, error.__cause__ or error) from error


def open_whole(model_class: Any, source: str, new: tuple[str, ...] = (), **options: Any) -> Any:
    """`from_pretrained`; ValueError for a missing or wrong-shaped weight, unless its name starts as `new`."""
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = model_class.from_pretrained(source, **options)
    faults = {name: f"it lacks the weights {name}" for name in report["missing_keys"]}
    for name, saved, expected in report["mismatched_keys"]:
        faults[name] = f"{name} is {list(saved)}, by its config.json it would be {list(expected)}"
    for name in sorted(faults):
        if not name.startswith(new):
            raise ValueError(faults[name])
    return model


def _broken(member: str | os.PathLike, position: int, error: object) -> ValueError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    name = f"Member {position}, {os.fspath(member)!r}"
    return ValueError(f"{name}, cannot be opened ({reason}): restore it from where it came.")


def _take_over(member: PreTrainedModel, position: int) -> TLMForSequenceClassification:
    """Our class around the parameters of a stock BERT."""
    try:
        config = TLMForSequenceClassification.config_class.from_dict(member.config.to_dict())
    except Exception as error:  # the validator's, whose cause is the sentence
        raise ValueError(f"Member {position} is not supported: {error.__cause__ or error}") from error
    config._name_or_path = member.config._name_or_path
    with torch.device("meta"):
        ours = TLMForSequenceClassification(config)
    try:
        ours.load_state_dict(member.state_dict(keep_vars=True), assign=True)
    except RuntimeError as error:
        remedy = "merge its adapters (merge_and_unload), or pass the model that it was made from"
        raise ValueError(f"Member {position} has other weights than a BERT classifier: {remedy}.") from error
    return ours.train(member.training)


def check_tokenizers(members: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Raise ValueError at the first member with another tokenizer.json (a model's: in the folder it came from)."""
    first: tuple[int, Any] | None = None
    for position, member in enumerate(members):
        source = getattr(getattr(member, "config", None), "_name_or_path", member)
        if not isinstance(source, str | os.PathLike) or not (source is member or Path(source or "?").is_dir()):
            continue
        tokenizer = _read_tokenizer(source, position, options)
        first = (position, tokenizer) if first is None and tokenizer is not None else first
        if first is not None and tokenizer not in (None, first[1]):
            reason = "a committee reads its text once, so all members must be trained with one tokenizer"
            raise ValueError(f"Member {position} has another tokenizer than member {first[0]}: {reason}.")


def _read_tokenizer(member: str | os.PathLike, position: int, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """What decides the tokens: tokenizer.json but for padding and truncation; None where there is no such file."""
    try:
        file = cached_file(os.fspath(member), "tokenizer.json", **options)
    except (OSError, ValueError):
        return None
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        return {key: value for key, value in content.items() if key not in ("padding", "truncation", "version")}
    except (ValueError, AttributeError) as error:
        raise _broken(member, position, "its tokenizer.json is damaged") from error


def problem_of_model(config: Any) -> str:
    """The problem type that stock BERT takes where none is written: one number is a regression."""
    return config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE)


def check_member(model: Any, position: int, earlier: Sequence[Any]) -> None:
    """Raise ValueError unless the model may vote with the `earlier` ones."""
    first, config, fault = earlier[0] if earlier else model, model.config, None
    problem, first_problem = problem_of_model(config), problem_of_model(first.config)
    names, expected = list(config.id2label.values()), list(first.config.id2label.values())
    size, first_size = config.vocab_size, first.config.vocab_size
    if any(model.classifier.weight is other.classifier.weight for other in earlier):
        fault = "is the same object as an earlier member: pass each model once"
    elif problem != first_problem:
        fault = f"was fine-tuned for {problem} but member 0 for {first_problem}: all members must answer one question"
    elif problem == REGRESSION and config.num_labels > 1:
        fault = f"has {config.num_labels} values a text: a committee has one"
    elif len(set(names)) < len(names):
        fault = f"has a label twice among {names}: give each class its own name"
    elif sorted(names) != sorted(expected):
        fault = f"has the labels {names} but member 0 has {expected}: all members must be fine-tuned on one task"
    elif size != first_size:
        fault = f"has a vocabulary of {size} tokens but member 0 has {first_size}: all members must share one tokenizer"
    elif model.dtype != first.dtype:
        fault = f"is in {model.dtype} but member 0 in {first.dtype}: bring all members to one precision (model.to)"
    elif adapted := adapter_in(model):
        fault = f"has an adapter ({adapted}), which a committee does not save: merge it (merge_and_unload)"
    if fault is not None:
        raise ValueError(f"Member {position} {fault}.")


def in_label_order(model: Any, labels: dict[int, str]) -> Any:
    """The member with its classes in the order of `labels`: itself, or a copy with its classifier permuted."""
    names = dict(model.config.id2label)
    if names == labels:
        return model
    places, permuted = {name: index for index, name in names.items()}, copy.deepcopy(model)
    permuted.config.id2label = dict(labels)
    permuted.config.label2id = {name: index for index, name in labels.items()}
    for weight in permuted.classifier.parameters():
        weight.data = weight.data[[places[labels[index]] for index in range(len(labels))]]
    return permuted
