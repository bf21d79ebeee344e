# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""Configuration of a soft committee: the configurations of its members and how their logits are joined."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .combination_committee import COMBINATIONS, MULTI, REGRESSION, SINGLE
from .configuration_tlm import TLMConfig, register_with_peft

AUTO_MAP = {
    "AutoConfig": "configuration_committee.CommitteeConfig",
    "AutoModel": "modeling_committee.CommitteeModel",  # this one and the next say that it has no single hidden state
    "AutoModelForMaskedLM": "modeling_committee.CommitteeModel",
    "AutoModelForSequenceClassification": "modeling_committee.CommitteeForSequenceClassification",
}

MEMBER_ONLY_FIELDS = ("_name_or_path", "transformers_version", "auto_map", "architectures", "id2label", "label2id")


@strict
class CommitteeConfig(PreTrainedConfig):  # trf-ignore: TRF057
    r"""Configuration of `CommitteeForSequenceClassification`.

    Args:
        member_configs: one plain dictionary of `TLMConfig` fields per member; members may differ in shape but share
            the vocabulary, the tokenizer and the labels. (transformers' sub-configs cannot hold a list.)
        temperature: softmax temperature applied after averaging, fitted on held-out data; 1 leaves the mean as it is.
        combination: what is averaged: probabilities or logits (`combination_committee`).
        threshold: least probability of the labels that a text gets, where it may have several.
        lexical_buckets: buckets for pairs of tokens, and as many for words, of a `LexicalTable`; 0: it has none.
        member_weight: factor of the members' logits, beside a table.
        max_tokens: tokens of a text that the table reads, [CLS] and [SEP] included; None: those of the tokenizer.
    """

    model_type = "tlm_committee"
    keys_to_ignore_at_inference = ["member_logits"]  # Trainer looks for it here: its predictions stay one array

    member_configs: list[dict[str, Any]] | None = None
    temperature: float | int = 1.0
    combination: str = "probabilities"
    threshold: float = 0.5
    pad_token_id: int | None = 0
    lexical_buckets: int = 0
    member_weight: float | int = 1.0
    max_tokens: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        members = self.member_configs or []
        members = [{key: value for key, value in each.items() if key not in MEMBER_ONLY_FIELDS} for each in members]
        self.member_configs = members or None
        super().__post_init__(**kwargs)

    def validate_committee(self) -> None:
        """Refuse contradictions; called by `@strict` at construction and before saving."""
        # transformers builds an empty configuration to compare with, so no members yet is not an error here.
        sizes = sorted({str(member.get("vocab_size")) for member in self.member_configs or []})
        if len(sizes) > 1:
            raise ValueError(f"The members' vocabulary sizes differ ({sizes}): they must share one tokenizer.")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: it must be positive.")
        if self.combination not in COMBINATIONS:
            raise ValueError(f"combination is {self.combination!r}: choose one of {', '.join(COMBINATIONS)}.")
        if self.problem_type == REGRESSION and (self.num_labels, self.temperature) != (1, 1):
            raise ValueError("A regression has one value a text (num_labels 1), and no temperature but 1.")
        if self.problem_type not in (None, SINGLE, MULTI, REGRESSION):
            raise ValueError(f"problem_type is {self.problem_type!r}: choose {SINGLE}, {MULTI} or {REGRESSION}.")

    @property
    def num_members(self) -> int:
        """Number of members."""
        return len(self.member_configs or [])

    def build_member_configs(self) -> list[TLMConfig]:
        """The members' configurations as objects, carrying the committee's labels and attention backend."""
        members = []
        for fields in self.member_configs or []:
            member = TLMConfig.from_dict(dict(fields))
            member.id2label, member.label2id = dict(self.id2label), dict(self.label2id)
            member._attn_implementation = self._attn_implementation
            members.append(member)
        return members

    def to_dict(self) -> dict[str, Any]:
        register_with_peft(self.model_type)
        return super().to_dict()

    def to_diff_dict(self) -> dict[str, Any]:
        return super().to_diff_dict() | {"auto_map": dict(AUTO_MAP)}


CommitteeConfig.register_for_auto_class("AutoConfig")
