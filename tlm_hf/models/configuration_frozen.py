# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""Configuration of a frozen committee: the shape of its tables and how its members' logits are joined."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .combination_committee import COMBINATIONS

AUTO_MAP = {
    "AutoConfig": "configuration_frozen.FrozenCommitteeConfig",
    "AutoModelForSequenceClassification": "modeling_frozen.FrozenCommitteeForSequenceClassification",
}
TABLE_DTYPES = ("float32", "float16", "int8")


@strict
class FrozenCommitteeConfig(PreTrainedConfig):  # trf-ignore: TRF057
    r"""Configuration of `FrozenCommitteeForSequenceClassification`: `CommitteeConfig`'s, and its members' stock fields.

    Args:
        cls_token_id: the token that every text starts with; it is folded into the tables.
        table_dtype: `float32`, `float16` (value rows) or `int8` (value rows and layers); all else is float32.
        type_vocab_size: 1 for single texts, 2 where there are tables of token type 1 for pairs too.
        max_tokens: tokens of a text that the runtime reads, more than max_position_embeddings with a table of words
            alone; None: max_position_embeddings.
        tokenizer_sha256: hash of the tokenizer.json that the members were trained with, where it is known.
    """

    model_type = "tlm_frozen"
    keys_to_ignore_at_inference = ["member_logits"]

    num_members: int = 1
    vocab_size: int = 30522
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    max_position_embeddings: int = 128
    pad_token_id: int | None = 0
    cls_token_id: int = 101
    table_dtype: str = "float32"
    temperature: float | int = 1.0
    combination: str = "probabilities"
    threshold: float = 0.5
    type_vocab_size: int = 1
    lexical_buckets: int = 0
    max_tokens: int | None = None
    tokenizer_sha256: str | None = None

    def validate_tables(self) -> None:
        """Refuse contradictions; called by `@strict` at construction and before saving."""
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: it must be positive.")
        for name, known in (("combination", COMBINATIONS), ("table_dtype", TABLE_DTYPES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(known)}.")

    def to_diff_dict(self) -> dict[str, Any]:
        return super().to_diff_dict() | {"auto_map": dict(AUTO_MAP)}


FrozenCommitteeConfig.register_for_auto_class("AutoConfig")
