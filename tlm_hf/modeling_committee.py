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
"""Soft committee: several independently trained encoders whose class probabilities are averaged.

This file travels to the Hub as remote code together with its flat siblings; it needs torch and transformers only.
p(y|x) is the mean over the members k of softmax(z_k), computed by logsumexp; `logits` = log p / temperature, so
softmax(logits) is the committee's calibrated probability and `pipeline("text-classification")` shows it
(arXiv 2507.14871, "soft committee").
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .configuration_committee import MEMBER_ONLY_FIELDS, CommitteeConfig
from .modeling_tlm import TLMForSequenceClassification


@dataclass
class CommitteeOutput(ModelOutput):  # trf-ignore: TRF057
    """Output of a committee.

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*):
            In training mode the sum of the members' own cross-entropies; in evaluation mode the cross-entropy of
            `logits`. The two differ (Jensen's inequality).
        logits (`torch.Tensor` of shape `(batch, num_labels)`):
            Log of the members' mean probability, divided by the temperature.
        member_logits (`torch.Tensor` of shape `(batch, members, num_labels)`):
            Each member's own logits.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    member_logits: torch.Tensor | None = None


class CommitteePreTrainedModel(PreTrainedModel):  # trf-ignore: TRF057
    """Base of the committee classes."""

    config: CommitteeConfig
    config_class = CommitteeConfig
    base_model_prefix = "committee"
    _no_split_modules = ["TLMEmbeddings", "TLMLayer"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True


class CommitteeForSequenceClassification(CommitteePreTrainedModel):  # trf-ignore: TRF057
    """A committee of `TLMForSequenceClassification` members behind one tokenizer and one set of labels."""

    # With num_items_in_batch unused, Trainer itself must divide by the gradient-accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: CommitteeConfig) -> None:
        super().__init__(config)
        if not config.member_configs:
            raise ValueError("A committee needs at least one member: build it with `from_members([...])`.")
        self.members = nn.ModuleList(TLMForSequenceClassification(member) for member in config.build_member_configs())
        self.post_init()

    @classmethod
    def from_members(
        cls,
        members: Sequence[str | os.PathLike | PreTrainedModel],
        temperature: float = 1.0,
    ) -> "CommitteeForSequenceClassification":
        """Join fine-tuned classifiers into a committee.

        Args:
            members: folders, Hub names or models (`TLMForSequenceClassification` or stock
                `BertForSequenceClassification`), same vocabulary size and same labels in the same order.
            temperature: see `CommitteeConfig`.

        Returns:
            The committee in evaluation mode; the members' weights are shared with models passed in, not copied.

        Raises:
            ValueError: no members, a member that is itself a committee, no classifier of one label a text, or the same
                object as another, or labels or vocabularies that differ; the sentence names the member.
        """
        if not members:
            raise ValueError("A committee needs at least one member, but the list of members is empty.")
        models = [cls._as_member(member, position) for position, member in enumerate(members)]
        labels = models[0].config.id2label
        for position, model in enumerate(models):
            if any(model is other for other in models[:position]):
                raise ValueError(f"Member {position} is the same object as an earlier member: pass each model once.")
            problem = model.config.problem_type or ("regression" if model.config.num_labels == 1 else None)
            if problem not in (None, "single_label_classification"):
                raise ValueError(
                    f"Member {position} was fine-tuned for {problem}: a soft committee averages class "
                    "probabilities, so its members do single_label_classification."
                )
            if model.config.id2label != labels:
                raise ValueError(
                    f"Member {position} has the labels {list(model.config.id2label.values())} but member 0 has "
                    f"{list(labels.values())}: all members must be fine-tuned on one task."
                )
            if model.config.vocab_size != models[0].config.vocab_size:
                raise ValueError(
                    f"Member {position} has a vocabulary of {model.config.vocab_size} tokens but member 0 has "
                    f"{models[0].config.vocab_size}: all members must share one tokenizer."
                )
        fields = [
            {key: value for key, value in model.config.to_dict().items() if key not in MEMBER_ONLY_FIELDS}
            for model in models
        ]
        config = cls.config_class(
            member_configs=fields,
            temperature=temperature,
            id2label=dict(labels),
            label2id=dict(models[0].config.label2id),
            pad_token_id=models[0].config.pad_token_id,
            problem_type="single_label_classification",
        )
        with torch.device("meta"):
            committee = cls(config)
        committee.members = nn.ModuleList(models)
        return committee.eval()

    @staticmethod
    def _as_member(member: str | os.PathLike | PreTrainedModel, position: int) -> TLMForSequenceClassification:
        """Load a folder, or take a model over into our class (same weight names, so a stock BERT fits)."""
        if isinstance(member, str | os.PathLike):
            fields, _ = TLMForSequenceClassification.config_class.get_config_dict(member)
            kind, classes = fields.get("model_type"), fields.get("architectures") or []
        else:
            kind, classes = member.config.model_type, [type(member).__name__]
        if kind == CommitteeConfig.model_type:
            raise ValueError(f"Member {position} is itself a committee: pass its members instead.")
        if not any(name.endswith("ForSequenceClassification") for name in classes):
            raise ValueError(f"Member {position} is an encoder without a classifier: fine-tune it first.")
        if isinstance(member, str | os.PathLike):
            return TLMForSequenceClassification.from_pretrained(member)
        if isinstance(member, TLMForSequenceClassification):
            return member
        config = TLMForSequenceClassification.config_class.from_dict(member.config.to_dict())
        ours = TLMForSequenceClassification(config)
        ours.load_state_dict(member.state_dict())
        return ours

    def __len__(self) -> int:
        """Number of members."""
        return len(self.members)

    def get_input_embeddings(self) -> nn.Embedding:
        """The first member's word embedding (transformers asks for one)."""
        first: TLMForSequenceClassification = self.members[0]  # type: ignore[assignment]
        return first.get_input_embeddings()

    def combine(self, member_logits: torch.Tensor) -> torch.Tensor:
        """Average the members' probabilities.

        Args:
            member_logits: (batch, members, num_labels).

        Returns:
            (batch, num_labels): log of the mean probability, divided by the temperature.
        """
        log_probabilities = member_logits.float().log_softmax(dim=-1)
        mean = log_probabilities.logsumexp(dim=1) - math.log(member_logits.shape[1])
        return mean / self.config.temperature

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CommitteeOutput:
        """Let every member vote on the same tokens.

        Args:
            input_ids: int64 (batch, sequence).
            attention_mask: (batch, sequence), 1 for tokens, 0 for padding.
            token_type_ids: int64 (batch, sequence).
            position_ids: int64 (batch or 1, sequence).
            labels: int64 (batch,), class ids.
            **kwargs: options of the attention backend.

        Returns:
            `CommitteeOutput`; see there for what `loss` means in training and in evaluation.

        Raises:
            ValueError: when `labels` are not class ids (regression and multi-label targets cannot be averaged).
        """
        if labels is not None and (labels.dim() != 1 or labels.is_floating_point()):
            raise ValueError(
                "A soft committee takes class ids (batch,) as labels: it has no regression or multi-label."
            )
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        votes = [member(input_ids, **inputs, return_dict=True, **kwargs).logits for member in self.members]
        member_logits = torch.stack(votes, dim=1)
        logits = self.combine(member_logits)
        loss = None
        if labels is not None and self.training:
            losses = [nn.functional.cross_entropy(vote.float(), labels) for vote in votes]
            loss = torch.stack(losses).sum()
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        return CommitteeOutput(loss=loss, logits=logits, member_logits=member_logits)


class _NoHiddenState(CommitteePreTrainedModel):
    """Base of the two classes that exist to refuse, in one sentence, what a committee cannot be."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse."""
        raise ValueError(cls.explain("This model"))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Refuse."""
        raise ValueError(cls.explain(pretrained_model_name_or_path))

    @staticmethod
    def explain(name: object) -> str:
        """The sentence."""
        return (
            f"{name} is a committee, which has no single hidden state and no language-model head: open it with "
            "AutoModelForSequenceClassification."
        )


class CommitteeModel(_NoHiddenState):  # trf-ignore: TRF057
    """`AutoModel` of a committee: raises one clear sentence."""


class CommitteeForMaskedLM(_NoHiddenState):  # trf-ignore: TRF057
    """`AutoModelForMaskedLM` of a committee: raises one clear sentence."""


CommitteeForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

__all__ = [
    "CommitteeForMaskedLM",
    "CommitteeForSequenceClassification",
    "CommitteeModel",
    "CommitteeOutput",
    "CommitteePreTrainedModel",
]
