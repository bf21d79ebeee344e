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
"""What must hold for classifiers to vote together: opening them, comparing tokenizers and labels, room in memory.

This file travels to the Hub as remote code; it needs torch and transformers only.
"""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.hub import cached_file

from .configuration_committee import CommitteeConfig
from .modeling_tlm import TLMForSequenceClassification

ROOM = 1.15
"""Times the weights' size that loading a committee and answering takes at its peak."""


def available_memory() -> int | None:
    """Bytes that can still be taken without swapping (Linux's MemAvailable); None where it is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def check_memory(sources: Sequence[Any]) -> None:
    """Refuse folders whose weights would not fit, before any of them is loaded.

    Raises:
        ValueError: `ROOM` times their size is more than the memory that is available.
    """
    folders = [Path(source).expanduser() for source in sources if isinstance(source, str | os.PathLike)]
    wanted = ROOM * sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))
    there = available_memory()
    if there is not None and wanted > there:
        raise ValueError(
            f"The {len(folders)} members take about {wanted / 2**30:.1f} GiB but {there / 2**30:.1f} GiB of memory are "
            "available: take fewer members, or free memory."
        )


def open_member(member: str | os.PathLike | PreTrainedModel, position: int) -> TLMForSequenceClassification:
    """Load a folder or Hub name, or take a model over into our class (same weight names, so a stock BERT fits).

    Raises:
        ValueError: the member is a committee, no classifier, of another kind, or its folder is broken.
    """
    if isinstance(member, str | os.PathLike):
        try:
            fields, _ = TLMForSequenceClassification.config_class.get_config_dict(member)
        except (OSError, ValueError) as error:
            raise ValueError(_broken(member, position, error)) from error
        kind, classes = fields.get("model_type"), fields.get("architectures") or []
    elif isinstance(member, PreTrainedModel):
        kind, classes = member.config.model_type, [type(member).__name__]
    else:
        raise ValueError(f"Member {position} is a {type(member).__name__}: give folders, Hub names or models.")
    if kind == CommitteeConfig.model_type:
        raise ValueError(f"Member {position} is itself a committee: pass its members instead.")
    if kind not in ("bert", TLMForSequenceClassification.config_class.model_type):
        raise ValueError(f"Member {position} is of type {kind!r}: members are BERT or tlm classifiers.")
    if not any(name.endswith("ForSequenceClassification") for name in classes):
        raise ValueError(f"Member {position} is an encoder without a classifier: fine-tune it first.")
    if isinstance(member, str | os.PathLike):
        try:
            model, report = TLMForSequenceClassification.from_pretrained(member, output_loading_info=True)
        except Exception as error:  # a truncated file raises what safetensors defines
            raise ValueError(_broken(member, position, error)) from error
        if report["missing_keys"]:
            lacking = f"it lacks the weights {sorted(report['missing_keys'])[0]}"
            raise ValueError(_broken(member, position, lacking))
        return model
    if isinstance(member, TLMForSequenceClassification):
        return member
    config = TLMForSequenceClassification.config_class.from_dict(member.config.to_dict())
    ours = TLMForSequenceClassification(config)
    ours.load_state_dict(member.state_dict())
    return ours


def _broken(member: str | os.PathLike, position: int, error: object) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return f"Member {position}, {os.fspath(member)!r}, cannot be opened ({reason}): restore it from where it came."


def check_tokenizers(sources: Sequence[Any]) -> None:
    """Refuse folders or Hub names with different tokenizers; those that have none, and models, are passed over.

    Raises:
        ValueError: the sentence names the first member that differs.
    """
    first: tuple[int, str, Any] | None = None
    for position, source in enumerate(sources):
        if not isinstance(source, str | os.PathLike) or (found := _read_tokenizer(source)) is None:
            continue
        if first is None:
            first = (position, *found)
        elif first[1] == found[0] and first[2] != found[1]:
            raise ValueError(
                f"Member {position} has another tokenizer than member {first[0]}: a committee reads its text once, so "
                "all members must be trained with one tokenizer."
            )


def _read_tokenizer(source: str | os.PathLike) -> tuple[str, Any] | None:
    """What decides the tokens: the kind of file, and its content without the settings for padding and truncation."""
    for name in ("tokenizer.json", "vocab.txt"):
        try:
            file = cached_file(os.fspath(source), name, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return None
        if file is None:
            continue
        text = Path(file).read_text(encoding="utf-8")
        if name == "vocab.txt":
            return name, text.splitlines()
        content = json.loads(text)
        return name, {key: value for key, value in content.items() if key not in ("padding", "truncation", "version")}
    return None


def check_member(model: Any, position: int, first: Any) -> None:
    """Refuse a member that cannot vote with the first one.

    Raises:
        ValueError: no classifier of one label a text, or other labels or another size of vocabulary than the first.
    """
    problem = model.config.problem_type or ("regression" if model.config.num_labels == 1 else None)
    if problem not in (None, "single_label_classification"):
        raise ValueError(
            f"Member {position} was fine-tuned for {problem}: a soft committee averages class "
            "probabilities, so its members do single_label_classification."
        )
    names, wanted = (list(config.id2label.values()) for config in (model.config, first.config))
    if sorted(names) != sorted(wanted) or len(set(names)) < len(names):
        raise ValueError(
            f"Member {position} has the labels {names} but member 0 has {wanted}: all members must be fine-tuned on "
            "one task."
        )
    if model.config.vocab_size != first.config.vocab_size:
        raise ValueError(
            f"Member {position} has a vocabulary of {model.config.vocab_size} tokens but member 0 has "
            f"{first.config.vocab_size}: all members must share one tokenizer."
        )


def in_label_order(model: Any, wanted: dict[int, str]) -> Any:
    """The member with its classes in the order of `wanted`: itself, or one that shares all but the classifier."""
    names = dict(model.config.id2label)
    if names == wanted:
        return model
    places = {name: index for index, name in names.items()}
    order = [places[wanted[index]] for index in range(len(wanted))]
    permuted = copy.copy(model)  # a module of its own around the same modules
    permuted._modules = dict(model._modules)
    permuted.config = copy.deepcopy(model.config)
    permuted.config.id2label = dict(wanted)
    permuted.config.label2id = {name: index for index, name in wanted.items()}
    permuted.classifier = copy.deepcopy(model.classifier)
    permuted.classifier.weight = nn.Parameter(model.classifier.weight.detach()[order].clone())
    permuted.classifier.bias = nn.Parameter(model.classifier.bias.detach()[order].clone())
    return permuted


__all__ = ["check_member", "check_memory", "check_tokenizers", "in_label_order", "open_member"]
