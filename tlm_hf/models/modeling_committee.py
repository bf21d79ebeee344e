# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""Soft committee: independently trained encoders whose logits are joined as `combination_committee` says."""

import copy
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .combination_committee import CommitteeOutput, committee_output
from .configuration_committee import CommitteeConfig
from .joining_committee import check_member, check_tokenizers, in_label_order, open_member, problem_of_model
from .lexical_committee import LexicalTable, first_tokens
from .modeling_frozen import FrozenCommitteeForSequenceClassification, freeze_members
from .modeling_tlm import TLMForSequenceClassification, TLMPreTrainedModel

Member: TypeAlias = str | os.PathLike | PreTrainedModel


class CommitteePreTrainedModel(TLMPreTrainedModel):  # trf-ignore: TRF057
    """Base of the committee classes."""

    config: CommitteeConfig
    config_class = CommitteeConfig
    base_model_prefix = "committee"
    _keep_in_fp32_modules_strict = {"lexical"}


class CommitteeForSequenceClassification(CommitteePreTrainedModel):  # trf-ignore: TRF057
    """A committee of `TLMForSequenceClassification` members behind one tokenizer and one set of labels."""

    # With num_items_in_batch unused, Trainer itself must divide by the gradient-accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: CommitteeConfig) -> None:
        super().__init__(config)
        if not config.member_configs:
            raise ValueError("A committee needs at least one member: build it with `from_members([...])`.")
        members, buckets = config.build_member_configs(), config.lexical_buckets
        self.members = nn.ModuleList(TLMForSequenceClassification(member) for member in members)
        self.lexical = LexicalTable(members[0].vocab_size, buckets, config.num_labels) if buckets else None
        self.post_init()

    @classmethod
    def from_members(
        cls, members: Iterable[Member], temperature: float = 1.0, combination: str = "probabilities", **kwargs: Any
    ) -> "CommitteeForSequenceClassification":
        """Join fine-tuned classifiers into a committee, in evaluation mode; it shares the weights of models passed in.

        Members are folders, Hub names (opened with the options of `from_pretrained`: `revision`, `dtype`, ...) or
        models, ours or stock BERT's, of one precision and tokenizer; labels are matched by name. Raises ValueError for
        no members, or one that does not fit; it is named.
        """
        if isinstance(members, str | os.PathLike | PreTrainedModel | dict) or not isinstance(members, Iterable):
            raise ValueError("from_members takes a list of members: put folders, names or models into brackets.")
        members = list(members)
        if not members:
            raise ValueError("A committee needs at least one member, but the list of members is empty.")
        if kwargs and all(isinstance(member, PreTrainedModel) for member in members):
            names = ", ".join(kwargs)
            raise ValueError(f"from_members got {names}, but options are for members given by name: leave it out.")
        check_tokenizers(members, kwargs)
        models = [open_member(member, position, kwargs) for position, member in enumerate(members)]
        for position, model in enumerate(models):
            check_member(model, position, models[:position])
        first, labels = models[0].config, dict(models[0].config.id2label)
        models = [in_label_order(model, labels) for model in models]
        try:
            config = cls.config_class(
                member_configs=[model.config.to_dict() for model in models],
                temperature=float(temperature),
                combination=combination,
                id2label=labels,
                label2id={name: index for index, name in labels.items()},
                pad_token_id=first.pad_token_id,
                problem_type=problem_of_model(first),
            )
        except Exception as error:  # the validator's, whose cause is the sentence
            raise ValueError(str(error.__cause__ or error)) from error
        with torch.device("meta"):
            committee = cls(config)
        committee.members = nn.ModuleList(models)
        return committee.eval()

    def subset(self, positions: Sequence[int]) -> "CommitteeForSequenceClassification":
        """A committee of the members at these positions, sharing weights, with the temperature of this one."""
        config, members = self.config, [self.members[position] for position in positions]
        committee = type(self).from_members(members, config.temperature, config.combination)
        committee.config.id2label, committee.config.label2id = dict(config.id2label), dict(config.label2id)
        committee.lexical = self.lexical
        for name in ("lexical_buckets", "threshold", "member_weight", "max_tokens"):
            setattr(committee.config, name, getattr(config, name))
        return committee.train(self.training)

    def freeze(
        self, dtype: str = "float32", cls_token_id: int | None = None, token_types: bool = False
    ) -> FrozenCommitteeForSequenceClassification:
        """The same committee as tables (see `modeling_frozen`): equal answers, many times faster, no training.

        Tables are `float32`, `float16` or `int8`, with `token_types` also of token type 1, for pairs of texts. Every
        text starts with `cls_token_id` (default: of the tokenizer beside committee or members). Raises ValueError for a
        member that has no tables, no tokenizer, or an unknown dtype.
        """
        longest = None
        if cls_token_id is None:
            from transformers import AutoTokenizer  # late: the Auto classes import this file

            sources = [self.config._name_or_path, self[0].config._name_or_path]
            try:
                tokenizer = AutoTokenizer.from_pretrained(next(filter(None, sources)))
            except (OSError, ValueError, StopIteration) as error:
                raise ValueError("The committee has no tokenizer beside it: pass freeze(cls_token_id=...).") from error
            cls_token_id, longest = tokenizer.cls_token_id, int(tokenizer.model_max_length)
        longest = self.config.max_tokens or longest
        frozen = freeze_members(list(self.members), self.config, cls_token_id, dtype, 1 + token_types)
        frozen.lexical, frozen.config.max_tokens = copy.deepcopy(self.lexical), longest
        return frozen

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        raise ValueError("A committee cannot resize its embeddings: resize each member's and join them again.")

    def num_parameters(self, *args: Any, **kwargs: Any) -> int:
        """Weights of the members, and of the table of words."""
        table = [] if self.lexical is None else [*self.lexical.buffers()]
        return super().num_parameters(*args, **kwargs) + sum(each.numel() for each in table)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, position: int) -> Any:
        return self.members[position]

    def get_input_embeddings(self) -> nn.Module:
        return self[0].get_input_embeddings()

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CommitteeOutput:
        """Let every member classify the same tokens (inputs of `TLMModel.forward`); `labels` are as `loss_of` says.

        With a table of words, texts may be longer than the members read: they get the `first_tokens`.
        """
        if kwargs.pop("inputs_embeds", None) is not None:
            raise ValueError("Give a committee input_ids, not inputs_embeds: each member has other word embeddings.")
        inputs: Any = (input_ids, attention_mask, token_type_ids)
        if self.lexical is not None and input_ids is not None:
            longest = min(self[place].config.max_position_embeddings for place in range(len(self)))
            inputs = first_tokens(longest, *inputs)
            position_ids = None if position_ids is None else position_ids[:, :longest]
        inputs = (*inputs, position_ids)
        logits = torch.stack([member(*inputs, return_dict=True, **kwargs).logits for member in self.members], dim=1)
        if self.lexical is not None:
            logits = self.config.member_weight * logits + self.lexical(input_ids, attention_mask)[:, None]
        return committee_output(logits, labels, self.config, self.training)


class CommitteeModel(CommitteePreTrainedModel):  # trf-ignore: TRF057
    """`AutoModel` and `AutoModelForMaskedLM` of a committee: raises one clear sentence."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.from_pretrained("This model")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        lacks = "which has no single hidden state and no language-model head"
        remedy = "open it with AutoModelForSequenceClassification"
        raise ValueError(f"{pretrained_model_name_or_path} is a committee, {lacks}: {remedy}.")


CommitteeForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
