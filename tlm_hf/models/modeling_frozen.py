# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""A frozen committee: one-layer encoders read at [CLS], as tables that are looked up and a small network for each text.

This file travels to the Hub as remote code together with its flat siblings; it needs torch and transformers only.
Exact to rounding, for K members of one layer without convolution. For a member with word rows w_v, position rows p_t
(token type 0 added), LayerNorm (g, b, eps), H heads of size d and hidden size h; x~ is a row minus its own mean:

    LayerNorm(w_v + p_t) = r(v,t) (w~_v + p~_t) g + b    r(v,t) = 1 / sqrt(|w~_v + p~_t|^2 / h + eps)    table `scale`
    score_h(t)   = r(v,t) (w~_v + p~_t) . (u_h g) + const    u_h = W_k,h^T q_h, q of the constant [CLS] row    `scores`
    context_h    = sum_t a_h(t) r(v,t) (U_w[v,h] + U_p[t,h]) + W_v b + b_v    U_w = (w~ g) W_v^T             `values`

with a the softmax of the scores. The rest is a row for each text: output projection (+ [CLS] row), LayerNorm,
feed-forward, LayerNorm, pooler, classifier. Members are interleaved, so one token is one contiguous row.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .combination_committee import CommitteeOutput, combine
from .configuration_frozen import TABLE_DTYPES, FrozenCommitteeConfig

SHARED = (
    *("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps"),
    *("max_position_embeddings", "pad_token_id"),
)
"""Fields of a member's configuration that all members share, and that the frozen one takes over."""
HAS_TILES = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
"""Whether the processor has units for products of bfloat16 matrices (AMX)."""
BLOCK = 1024
"""Words whose scales are computed at a time."""


def table(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    """An uninitialised table that takes no gradient."""
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


def quantised(values: torch.Tensor, dtype: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Values in a `table_dtype`; with int8 also the float32 step of each row (without the last dimension)."""
    if dtype != "int8":
        return values.to(getattr(torch, dtype)), None
    step = values.abs().amax(dim=-1).clamp(min=1e-12) / 127
    return (values / step[..., None]).round().to(torch.int8), step


class FrozenDense(nn.Module):
    """A linear layer of each member: (members, rows, inputs) to (members, rows, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int, dtype: str) -> None:
        super().__init__()
        self.weight = table(members, outputs, inputs, dtype=getattr(torch, dtype))
        self.bias = table(members, outputs)
        self.step = table(members, outputs) if dtype == "int8" else None

    def fill(self, layers: Sequence[nn.Linear], dtype: str) -> None:
        """Take over the members' layers."""
        weight, step = quantised(torch.stack([layer.weight.float() for layer in layers]), dtype)
        self.weight.copy_(weight)
        self.bias.copy_(torch.stack([layer.bias for layer in layers]))
        if self.step is not None and step is not None:
            self.step.copy_(step)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Project each member's rows."""
        if self.step is None:
            return torch.baddbmm(self.bias[:, None], states, self.weight.to(states.dtype).transpose(1, 2))
        # The rounding of bfloat16 is below that of int8 weights.
        dtype = torch.bfloat16 if states.device.type == "cpu" and HAS_TILES else states.dtype
        products = torch.bmm(states.to(dtype), self.weight.to(dtype).transpose(1, 2)).to(states.dtype)
        return products * self.step[:, None] + self.bias[:, None]


class FrozenNorm(nn.Module):
    """A LayerNorm of each member over (members, rows, hidden)."""

    def __init__(self, members: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = table(members, hidden), table(members, hidden), eps

    def fill(self, norms: Sequence[nn.LayerNorm]) -> None:
        """Take over the members' norms."""
        self.weight.copy_(torch.stack([norm.weight for norm in norms]))
        self.bias.copy_(torch.stack([norm.bias for norm in norms]))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Normalise each member's rows."""
        return F.layer_norm(states, states.shape[-1:], eps=self.eps) * self.weight[:, None] + self.bias[:, None]


class FrozenCommitteeForSequenceClassification(PreTrainedModel):  # trf-ignore: TRF057
    """A committee as tables; `freeze` makes it. It is a value: it cannot be trained, and never goes stale."""

    config: FrozenCommitteeConfig
    config_class = FrozenCommitteeConfig
    base_model_prefix = "frozen"
    # A precision asked of `from_pretrained` changes none of these; value rows and weights have the table's.
    _keep_in_fp32_modules_strict = {"scale", "scores", "position_scores", "position_values", "value_step", "first"} | {
        *("context_bias", "attention_norm", "output_norm", "bias", "step")
    }

    def __init__(self, config: FrozenCommitteeConfig) -> None:
        super().__init__(config)
        members, hidden, heads = config.num_members, config.hidden_size, config.num_attention_heads
        words, longest, dtype = config.vocab_size, config.max_position_embeddings, config.table_dtype
        self.values = table(words, members, heads, hidden // heads, dtype=getattr(torch, dtype))
        self.value_step = table(words, members, heads) if dtype == "int8" else None
        self.scores = table(words, members, heads)
        self.scale = table(words, longest, members)
        self.position_values = table(longest, members, heads, hidden // heads)
        self.position_scores = table(longest, members, heads)
        self.context_bias, self.first = table(members, hidden), table(members, hidden)
        self.attention_output = FrozenDense(members, hidden, hidden, dtype)
        self.attention_norm = FrozenNorm(members, hidden, config.layer_norm_eps)
        self.intermediate = FrozenDense(members, hidden, config.intermediate_size, dtype)
        self.output = FrozenDense(members, config.intermediate_size, hidden, dtype)
        self.output_norm = FrozenNorm(members, hidden, config.layer_norm_eps)
        self.pooler = FrozenDense(members, hidden, hidden, dtype)
        self.classifier = FrozenDense(members, hidden, config.num_labels, dtype)
        self.activation = ACT2FN[config.hidden_act]
        self.post_init()
        self.eval()

    # trf-ignore: TRF018
    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: tables come from a committee or from a file."""

    def train(self, mode: bool = True) -> "FrozenCommitteeForSequenceClassification":
        """Evaluation mode alone.

        Raises:
            ValueError: training mode.
        """
        if mode:
            raise ValueError("A frozen committee cannot be trained: train the committee and freeze it again.")
        return super().train(False)

    def get_input_embeddings(self) -> nn.Module:
        """Refuse."""
        raise NotImplementedError("A frozen committee has no word embeddings: take the committee's.")

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CommitteeOutput:
        """Classify texts as the committee does.

        Args:
            input_ids: int64 (batch, sequence), each row starting with [CLS].
            attention_mask: (batch, sequence), 1 for tokens and 0 for padding.
            token_type_ids: zeros.
            labels: class ids, int64 (batch,); the loss is the cross-entropy of `logits`.
            **kwargs: `return_dict`.

        Raises:
            ValueError: inputs that only the committee itself answers.
        """
        self._check(input_ids, attention_mask, token_type_ids, kwargs)
        context = self._pool(input_ids, attention_mask)  # type: ignore[arg-type]
        states = self.attention_norm(self.attention_output(context) + self.first[:, None])
        states = self.output_norm(self.output(self.activation(self.intermediate(states))) + states)
        member_logits = self.classifier(torch.tanh(self.pooler(states))).transpose(0, 1)
        logits = combine(member_logits, self.config.combination, self.config.temperature)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return CommitteeOutput(loss=loss, logits=logits, member_logits=member_logits)

    def _check(self, ids: Any, mask: Any, types: Any, others: dict[str, Any]) -> None:
        """Raise ValueError for inputs without tables; what the data say is not read in a graph or off the CPU."""
        fault, longest, first = None, self.config.max_position_embeddings, self.config.cls_token_id
        given = [name for name in ("position_ids", "inputs_embeds") if others.get(name) is not None]
        if given:
            fault = f"takes no {given[0]}"
        elif ids is None or ids.dim() != 2 or (mask is not None and mask.shape != ids.shape):
            fault = "takes input_ids (batch, sequence) and a mask of that shape"
        elif ids.shape[1] > longest:
            fault = f"takes at most {longest} tokens, not {ids.shape[1]}"
        elif self._is_readable(ids):
            if bool((ids[:, 0] != first).any()):
                fault = f"takes texts that start with token {first} and are padded on the right"
            elif types is not None and bool(types.any()):
                fault = "takes single texts (token type 0)"
        if fault is not None:
            raise ValueError(f"A frozen committee {fault}: ask the committee that it was made from.")

    @staticmethod
    def _is_readable(ids: torch.Tensor) -> bool:
        """Whether code may depend on the data: not in a graph, nor where reading them costs a transfer."""
        return ids.device.type == "cpu" and not torch.compiler.is_compiling()

    def _pool(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attention from [CLS]: ids (batch, sequence) to contexts (members, batch, hidden)."""
        length, (members, heads, size) = ids.shape[1], self.values.shape[1:]
        scale = self.scale[ids, torch.arange(length, device=ids.device)][..., None]  # (B, T, K, 1)
        scores = (self.scores[ids] + self.position_scores[:length]) * scale
        if mask is not None:
            scores = scores.masked_fill(mask[:, :, None, None] == 0, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=1) * scale  # (B, T, K, H)
        by_place = torch.einsum("btkh,tkhd->kbhd", weights, self.position_values[:length])
        if self.value_step is not None:
            weights = weights * self.value_step[ids]
        rows: Any = slice(None)
        if self.values.dtype != weights.dtype and self._is_readable(ids):
            rows, ids = ids.unique(return_inverse=True)  # only the batch's words are brought to float32
        values = self.values[rows].to(weights.dtype)
        slices = torch.arange(members * heads, device=ids.device)
        places = ids[:, None] * (members * heads) + slices[:, None]  # (B, K H, T)
        by_word = F.embedding_bag(
            places.flatten(0, 1),
            values.view(-1, size),
            mode="sum",
            per_sample_weights=weights.flatten(2).transpose(1, 2).reshape(-1, length),
        )
        context = by_place + by_word.view(-1, members, heads, size).transpose(0, 1)
        return context.flatten(2) + self.context_bias[:, None]


def check_freezable(members: Sequence[Any]) -> None:
    """Raise ValueError at the first member that has no tables, or another shape than the first."""
    for position, member in enumerate(members):
        config, fault = member.config, None
        layers, convolution = config.num_hidden_layers, config.has_convolution
        different = [name for name in SHARED if getattr(config, name) != getattr(members[0].config, name)]
        parts = {"weight", "bias"}
        adapted = [
            name
            for name, _ in member.named_parameters()
            if name.rpartition(".")[2] not in parts or any(part in name for part in ("lora_", "base_layer"))
        ]
        if layers != 1:
            fault = f"has {layers} layers: only one-layer encoders are tables"
        elif convolution:
            fault = "has a convolution: only encoders without one are tables"
        elif adapted:
            fault = f"has an adapter ({adapted[0]}): merge it (merge_and_unload)"
        elif different:
            fault = f"has {different[0]} {getattr(config, different[0])}, unlike member 0: freeze equal members"
        if fault is not None:
            raise ValueError(f"Member {position} cannot be frozen, since it {fault}.")


@torch.no_grad()
def freeze_members(
    members: Sequence[Any], committee: Any, cls_token_id: int, dtype: str
) -> FrozenCommitteeForSequenceClassification:
    """Make the tables of one-layer classifiers, on the device of the first.

    Args:
        members: `TLMForSequenceClassification` of one shape, without convolution.
        committee: the configuration with labels, temperature and combination.
        cls_token_id: the token that every text starts with.
        dtype: see `FrozenCommitteeConfig`.

    Raises:
        ValueError: an unknown dtype, or a member that has no tables; it is named.
    """
    if dtype not in TABLE_DTYPES:
        raise ValueError(f"dtype is {dtype!r}: choose one of {', '.join(TABLE_DTYPES)}.")
    check_freezable(members)
    config = FrozenCommitteeConfig(
        num_members=len(members),
        cls_token_id=cls_token_id,
        table_dtype=dtype,
        id2label=dict(committee.id2label),
        label2id=dict(committee.label2id),
        temperature=committee.temperature,
        combination=committee.combination,
        **{name: getattr(members[0].config, name) for name in SHARED},
    )
    with torch.device(members[0].device):
        frozen = FrozenCommitteeForSequenceClassification(config)
    for position, member in enumerate(members):
        _fill_tables(frozen, position, member, cls_token_id)
    layers = [member.bert.encoder.layer[0] for member in members]
    frozen.attention_output.fill([layer.attention.output.dense for layer in layers], dtype)
    frozen.intermediate.fill([layer.intermediate.dense for layer in layers], dtype)
    frozen.output.fill([layer.output.dense for layer in layers], dtype)
    frozen.pooler.fill([member.bert.pooler.dense for member in members], dtype)
    frozen.classifier.fill([member.classifier for member in members], dtype)
    frozen.attention_norm.fill([layer.attention.output.LayerNorm for layer in layers])
    frozen.output_norm.fill([layer.output.LayerNorm for layer in layers])
    return frozen


def _fill_tables(frozen: FrozenCommitteeForSequenceClassification, k: int, member: Any, cls_token_id: int) -> None:
    """Tables of member k, by the formulas at the head of this file."""
    embeddings, attention = member.bert.embeddings, member.bert.encoder.layer[0].attention.self
    heads, size = frozen.values.shape[2:]
    norm = embeddings.LayerNorm
    gain, shift = norm.weight.float(), norm.bias.float()
    words = embeddings.word_embeddings.weight.float()
    places = (embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]).float()
    first = F.layer_norm(words[cls_token_id] + places[0], gain.shape, gain, shift, norm.eps)
    query = attention.query(first.to(norm.weight.dtype)).float().view(heads, size) * attention.scaling
    absorbed = torch.einsum("hd,hdc->hc", query, attention.key.weight.float().view(heads, size, -1)) * gain
    value = attention.value.weight.float()
    words, places = words - words.mean(1, keepdim=True), places - places.mean(1, keepdim=True)
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        rows = slice(start, start + len(block))
        squares = (block**2).sum(1)[:, None] + (places**2).sum(1) + 2 * block @ places.t()
        frozen.scale[rows, :, k] = (squares / words.shape[1] + norm.eps).rsqrt()
        frozen.scores[rows, k] = block @ absorbed.t()
        values, step = quantised((block @ (value * gain).t()).view(-1, heads, size), frozen.config.table_dtype)
        frozen.values[rows, k] = values
        if frozen.value_step is not None and step is not None:
            frozen.value_step[rows, k] = step
    frozen.position_scores[:, k] = places @ absorbed.t()
    frozen.position_values[:, k] = (places @ (value * gain).t()).view(-1, heads, size)
    frozen.context_bias[k] = value @ shift + attention.value.bias.float()
    frozen.first[k] = first


FrozenCommitteeForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

__all__ = ["FrozenCommitteeForSequenceClassification", "freeze_members"]
