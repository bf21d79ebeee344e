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
(arXiv 2507.14871, "soft committee"). `combination_committee` has the formulas.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .combination_committee import CommitteeOutput, combine
from .configuration_committee import MEMBER_ONLY_FIELDS, CommitteeConfig
from .joining_committee import check_member, check_tokenizers, in_label_order, open_member
from .modeling_tlm import TLMForSequenceClassification


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
        combination: str = "probabilities",
    ) -> "CommitteeForSequenceClassification":
        """Join fine-tuned classifiers into a committee.

        Args:
            members: folders, Hub names or models (`TLMForSequenceClassification` or stock
                `BertForSequenceClassification`) of one precision, with one tokenizer and the same labels, matched by
                name: where their order differs from member 0's, the member's classifier is permuted.
            temperature: see `CommitteeConfig`.
            combination: see `CommitteeConfig`.

        Returns:
            The committee in evaluation mode; the weights of models passed in are shared, not copied (but for a
            permuted classifier's).

        Raises:
            ValueError: no members, a folder that is broken, a member that is itself a committee, no classifier of one
                label a text, or the same object as another, labels, tokenizers or precisions that differ; the
                sentence names the member.
        """
        if isinstance(members, str | os.PathLike | PreTrainedModel | dict) or not isinstance(members, Iterable):
            raise ValueError("from_members takes a list of members: put folders, names or models into brackets.")
        members = list(members)
        if not members:
            raise ValueError("A committee needs at least one member, but the list of members is empty.")
        check_tokenizers(members)
        models = [open_member(member, position) for position, member in enumerate(members)]
        for position, model in enumerate(models):
            if any(model is other for other in models[:position]) or any(
                members[position] is other for other in members[:position] if isinstance(other, nn.Module)
            ):
                raise ValueError(f"Member {position} is the same object as an earlier member: pass each model once.")
            check_member(model, position, models[0])
        labels = dict(models[0].config.id2label)
        models = [in_label_order(model, labels) for model in models]
        return cls._join(models, temperature, combination)

    @classmethod
    def _join(cls, models: list[Any], temperature: float, combination: str) -> "CommitteeForSequenceClassification":
        """The committee of checked members."""
        fields = [
            {key: value for key, value in model.config.to_dict().items() if key not in MEMBER_ONLY_FIELDS}
            for model in models
        ]
        try:
            config = cls.config_class(
                member_configs=fields,
                temperature=float(temperature),
                combination=combination,
                id2label=dict(models[0].config.id2label),
                label2id={name: index for index, name in models[0].config.id2label.items()},
                pad_token_id=models[0].config.pad_token_id,
                problem_type="single_label_classification",
            )
        except Exception as error:  # the validator's, whose cause is the sentence
            raise ValueError(str(error.__cause__ or error)) from error
        with torch.device("meta"):
            committee = cls(config)
        committee.members = nn.ModuleList(models)
        return committee.eval()

    def add_member(self, member: str | os.PathLike | PreTrainedModel) -> "CommitteeForSequenceClassification":
        """A committee with one member more, sharing all weights with this one.

        Args:
            member: as in `from_members`.

        Returns:
            The new committee in evaluation mode; its temperature is this one's, to be fitted again.

        Raises:
            ValueError: as `from_members`.
        """
        return self._with_members([*self.members, member])

    def drop_member(self, position: int) -> "CommitteeForSequenceClassification":
        """A committee without the member at `position`; see `subset`."""
        dropped = range(len(self))[position]
        return self.subset([index for index in range(len(self)) if index != dropped])

    def subset(self, positions: Sequence[int]) -> "CommitteeForSequenceClassification":
        """A committee of some of the members, sharing their weights.

        Args:
            positions: places of the members, each once.

        Returns:
            The new committee in evaluation mode; its temperature is this one's, to be fitted again.

        Raises:
            IndexError: no member at a position.
            ValueError: no positions, or one twice.
        """
        return self._with_members([self.members[position] for position in positions])

    def _with_members(self, members: list[Any]) -> "CommitteeForSequenceClassification":
        """A committee of these with the settings and the names of the labels of this one."""
        committee = type(self).from_members(members, self.config.temperature, self.config.combination)
        committee.config.id2label, committee.config.label2id = dict(self.config.id2label), dict(self.config.label2id)
        return committee

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Refuse."""
        raise ValueError("A committee cannot resize its embeddings: resize each member's and join them again.")

    def __len__(self) -> int:
        """Number of members."""
        return len(self.members)

    def __getitem__(self, position: int | slice) -> Any:
        """The member at a position, or with a slice the committee of those members (`subset`)."""
        if isinstance(position, slice):
            return self.subset(range(len(self))[position])
        return self.members[position]

    def get_input_embeddings(self) -> nn.Embedding:
        """The first member's word embedding (transformers asks for one)."""
        first: TLMForSequenceClassification = self.members[0]  # type: ignore[assignment]
        return first.get_input_embeddings()

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
        logits = combine(member_logits, self.config.combination, self.config.temperature)
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
