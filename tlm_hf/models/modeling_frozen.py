# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""A frozen committee: one-layer encoders read at [CLS], as tables that are looked up and a small network for each text.

Exact to rounding, for K members of one layer without convolution. For a member with word rows w_v, position rows p_t
(token type 0 added; with token types, as many rows again with type 1), LayerNorm (g, b, eps), H heads of size d and
hidden size h; x~ is a row minus its own mean:

    LayerNorm(w_v + p_t) = r(v,t) (w~_v + p~_t) g + b    r(v,t) = 1 / sqrt(|w~_v + p~_t|^2 / h + eps)    table `scale`
    score_h(t)   = r(v,t) (w~_v + p~_t) . (u_h g) + const    u_h = W_k,h^T q_h, q of the constant [CLS] row    `scores`
    context_h    = sum_t a_h(t) r(v,t) (U_w[v,h] + U_p[t,h]) + W_v b + b_v    U_w = (w~ g) W_v^T             `values`

with a the softmax of the scores. The rest is a row for each text: output projection (+ [CLS] row), LayerNorm,
feed-forward, LayerNorm, pooler, classifier. What is constant there, and the gains of the LayerNorms, is in the weights
and biases of the layer behind. Members are interleaved, so one token is one contiguous row.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .combination_committee import SINGLE, CommitteeOutput, committee_output
from .configuration_frozen import TABLE_DTYPES, FrozenCommitteeConfig
from .lexical_committee import LexicalTable, first_tokens

SHARED = (  # fields that all members' configurations share, and the frozen one takes over
    *("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps"),
    *("max_position_embeddings", "pad_token_id"),
)
HAS_TILES = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())  # for products of bfloat16 matrices (AMX)
BLOCK = 1024  # words whose scales are computed at a time
FEW, LANES = 8, 32  # texts up to which int8 weights are not widened; inputs that their kernel reads at a time


def _table(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


class FrozenDense(nn.Module):
    """A linear layer of each member: (members, rows, inputs) to (members, rows, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int, dtype: str) -> None:
        super().__init__()
        int8 = dtype == "int8"
        self.weight = _table(members, outputs, inputs, dtype=torch.int8) if int8 else _table(members, inputs, outputs)
        self.step = _table(members, outputs) if int8 else None
        self.bias = _table(members, 1, outputs)

    def fill(self, k: int, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Take over the weight (outputs, inputs) and bias (outputs,) of member k."""
        self.bias[k, 0] = bias
        if self.step is None:
            self.weight[k] = weight.t()
        else:
            self.step[k] = (weight.abs().amax(dim=1).clamp(min=1e-12) / 127).bfloat16()  # as torch's kernel takes it
            self.weight[k] = (weight / self.step[k, :, None]).round().clamp(-127, 127)

    def forward(self, states: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Project each member's rows, and add `bias` in place of the layer's."""
        bias = self.bias if bias is None else bias
        if self.step is None:
            return torch.baddbmm(bias, states, self.weight)
        by_kernel = self.weight.dtype == torch.int8 and states.device.type == "cpu"  # `dtype=` of loading widens it
        if by_kernel and states.shape[1] <= FEW and states.shape[2] % LANES == 0:
            rows = zip(states.bfloat16(), self.weight, self.step.bfloat16(), strict=True)
            return torch.stack([torch._weight_int8pack_mm(*parts) for parts in rows]) + bias
        # The rounding of bfloat16 is below that of int8 weights.
        dtype = torch.bfloat16 if states.device.type == "cpu" and HAS_TILES else states.dtype
        return torch.addcmul(bias, torch.bmm(states.to(dtype), self.weight.to(dtype).mT), self.step[:, None])


class FrozenCommitteeForSequenceClassification(PreTrainedModel):  # trf-ignore: TRF057
    """A committee as tables; `freeze` makes it. It is a value: it cannot be trained, and never goes stale."""

    config: FrozenCommitteeConfig
    config_class = FrozenCommitteeConfig
    base_model_prefix = "frozen"
    # A precision asked of `from_pretrained` changes none of these; float16 is of value rows alone.
    _keep_in_fp32_modules_strict = {"scale", "scores", "position_scores", "position_values", "gain"} | {
        *("weight", "bias", "step", "idf")
    }

    def __init__(self, config: FrozenCommitteeConfig) -> None:
        super().__init__(config)
        members, hidden, heads = config.num_members, config.hidden_size, config.num_attention_heads
        words, dtype, size = config.vocab_size, config.table_dtype, hidden // heads
        places, buckets = config.max_position_embeddings * config.type_vocab_size, config.lexical_buckets
        # In int8 a row of bytes, then its float32 scale and offset, as torch's kernels have them.
        row, kind = (size + 8, torch.uint8) if dtype == "int8" else (size, getattr(torch, dtype))
        self.values = _table(words, members, heads, row, dtype=kind)
        self.scores = _table(words, members, heads)
        self.scale = _table(words, places, members)
        self.position_values = _table(members, heads, places, size)
        self.position_scores = _table(places, members, heads)
        self.attention_output = FrozenDense(members, hidden, hidden, dtype)
        self.gain = _table(members, 1, hidden)
        self.intermediate = FrozenDense(members, hidden, config.intermediate_size, dtype)
        self.output = FrozenDense(members, config.intermediate_size, hidden, dtype)
        self.pooler = FrozenDense(members, hidden, hidden, dtype)
        self.classifier = FrozenDense(members, hidden, config.num_labels, "float32")
        self.lexical = LexicalTable(words, buckets, config.num_labels) if buckets else None
        self.activation = ACT2FN[config.hidden_act]
        self.post_init()
        self.eval()

    # trf-ignore: TRF018
    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: tables come from a committee or from a file."""

    def train(self, mode: bool = True) -> "FrozenCommitteeForSequenceClassification":
        """Evaluation mode alone; raises ValueError for training mode."""
        if mode:
            raise ValueError("A frozen committee cannot be trained: train the committee and freeze it again.")
        return super().train(False)

    def get_input_embeddings(self) -> nn.Module:
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
        """Classify texts as the committee does; raises ValueError for inputs that only the committee itself answers.

        `input_ids` are int64 (batch, sequence), each row starting with [CLS] and padded on the right; `token_type_ids`
        other than 0 need tables frozen with token types; `labels` are as `loss_of` says.
        """
        self._check(input_ids, attention_mask, token_type_ids, kwargs)
        inputs: Any = (input_ids, attention_mask, token_type_ids)
        if self.lexical is not None:  # it reads longer texts than the members
            inputs = first_tokens(self.config.max_position_embeddings, *inputs)
        states = self._norm(self.attention_output(self._pool(*inputs)))
        inner = self.activation(self.intermediate(states))
        states = self._norm(self.output(inner, torch.addcmul(self.output.bias, states, self.gain)))
        member_logits = self.classifier(torch.tanh(self.pooler(states))).transpose(0, 1)
        if self.lexical is not None:
            member_logits = member_logits + self.lexical(input_ids, attention_mask)[:, None]
        return committee_output(member_logits, labels, self.config)

    def _check(self, ids: Any, mask: Any, types: Any, others: dict[str, Any]) -> None:
        """Raise ValueError for inputs without tables; what the data say is not read in a graph or off the CPU."""
        fault, longest, first = None, self.config.max_position_embeddings, self.config.cls_token_id
        given = [name for name in ("position_ids", "inputs_embeds") if others.get(name) is not None]
        if given:
            fault = f"takes no {given[0]}"
        elif ids is None or ids.dim() != 2 or (mask is not None and mask.shape != ids.shape):
            fault = "takes input_ids (batch, sequence) and a mask of that shape"
        elif ids.shape[1] > longest and self.lexical is None:
            fault = f"takes at most {longest} tokens, not {ids.shape[1]}"
        elif ids.device.type == "cpu" and not torch.compiler.is_compiling():
            if bool((ids[:, 0] != first).any()):
                fault = f"takes texts that start with token {first} and are padded on the right"
            elif types is not None and bool((types * longest >= len(self.position_scores)).any()):
                fault = "takes pairs of texts (token types 0 and 1) only when it is frozen with token_types=True"
        if fault is not None:
            raise ValueError(f"A frozen committee {fault}: ask the committee that it was made from.")

    def _norm(self, states: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(states, states.shape[-1:], eps=self.config.layer_norm_eps)

    def _pool(self, ids: Any, mask: torch.Tensor | None, types: torch.Tensor | None) -> torch.Tensor:
        """Attention from [CLS]: ids (batch, sequence) to contexts (members, batch, hidden)."""
        (batch, length), (rows, members, heads) = ids.shape, self.position_scores.shape
        longest, columns = self.config.max_position_embeddings, torch.arange(length, device=ids.device)
        types = None if rows == longest else types
        places = columns if types is None else columns + longest * types
        scale = F.embedding(ids * rows + places, self.scale.flatten(0, 1))[..., None]  # (B, T, K, 1)
        scores = F.embedding(ids, self.scores.flatten(1)).unflatten(2, (members, heads))
        scores = scores.add_(self.position_scores[:length] if types is None else self.position_scores[places])
        scores = scores.mul_(scale)
        if mask is not None:
            scores = scores.masked_fill_(mask[:, :, None, None] == 0, torch.finfo(scores.dtype).min)
        weights = (scores.softmax(dim=1) * scale).flatten(2).transpose(1, 2).contiguous()  # (B, K H, T)
        by_word, positions = self._sum_values(ids, weights).transpose(0, 1), self.position_values.flatten(0, 1)
        if types is not None:
            of_second = weights * types[:, None]
            weights = torch.cat([weights - of_second, of_second], dim=2)
            columns = torch.cat([columns, columns + longest])
        is_sliced = types is None and not torch.compiler.is_compiling()
        positions = positions[:, :length] if is_sliced else positions.index_select(1, columns)
        context = torch.baddbmm(by_word, weights.transpose(0, 1), positions)
        return context.view(members, heads, batch, -1).transpose(1, 2).flatten(2)

    def _sum_values(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the words' value rows: ids (B, T), weights (B, K H, T) to (B, K H, d)."""
        (batch, slices, length), stored = weights.shape, self.values.flatten(0, 2)
        int8 = stored.dtype == torch.uint8
        rows = ids[:, None] * slices + torch.arange(slices, device=ids.device)[:, None]  # (B, K H, T)
        if torch.compiler.is_compiling() or (int8 and ids.device.type != "cpu"):
            values = stored[rows] if int8 else F.embedding(rows, stored)  # (B, K H, T, d)
            if int8:
                step, least = values[..., -8:].contiguous().view(torch.float32).split(1, dim=-1)
                values = values[..., :-8] * step + least
            return (weights[:, :, None] @ values.to(weights.dtype)).squeeze(2)
        if int8:
            starts = torch.arange(0, rows.numel(), length)
            bag = torch.ops.quantized.embedding_bag_byte_rowwise_offsets
            sums = bag(stored, rows.flatten(), starts, per_sample_weights=weights.flatten())
        else:
            parts = weights.flatten(0, 1).to(stored.dtype)
            sums = F.embedding_bag(rows.flatten(0, 1), stored, mode="sum", per_sample_weights=parts).to(weights.dtype)
        return sums.view(batch, slices, -1)


def adapter_in(model: Any) -> str | None:
    """The name of a weight that is of an adapter, if there is one."""
    own = re.compile(r"(?!.*(lora_|base_layer)).*\.(weight|bias)")
    return next((name for name, _ in model.named_parameters() if not own.fullmatch(name)), None)


def check_freezable(members: Sequence[Any], types: int = 1) -> None:
    """Raise ValueError at a member that has no tables, another shape than the first, or fewer token types."""
    for position, member in enumerate(members):
        config, fault = member.config, None
        layers, convolution = config.num_hidden_layers, config.has_convolution
        different = [name for name in SHARED if getattr(config, name) != getattr(members[0].config, name)]
        if layers != 1:
            fault = f"has {layers} layers: only one-layer encoders are tables"
        elif convolution:
            fault = "has a convolution: only encoders without one are tables"
        elif adapted := adapter_in(member):
            fault = f"has an adapter ({adapted}): merge it (merge_and_unload)"
        elif different:
            fault = f"has {different[0]} {getattr(config, different[0])}, unlike member 0: freeze equal members"
        if fault is not None:
            raise ValueError(f"Member {position} cannot be frozen, since it {fault}.")
    if types > min(member.config.type_vocab_size for member in members):
        raise ValueError("A member knows one token type only: leave token_types out.")


@torch.no_grad()
def freeze_members(
    members: Sequence[Any], committee: Any, cls_token_id: int, dtype: str, types: int = 1
) -> FrozenCommitteeForSequenceClassification:
    """Make the tables of one-layer classifiers, with the `committee`'s configuration; see its `freeze`."""
    if dtype not in TABLE_DTYPES:
        raise ValueError(f"dtype is {dtype!r}: choose one of {', '.join(TABLE_DTYPES)}.")
    check_freezable(members, types)
    own = ("id2label", "label2id", "temperature", "combination", "threshold", "lexical_buckets")
    config = FrozenCommitteeConfig(
        num_members=len(members),
        cls_token_id=cls_token_id,
        table_dtype=dtype,
        problem_type=None if committee.problem_type == SINGLE else committee.problem_type,
        type_vocab_size=types,
        **{name: copy.copy(getattr(committee, name)) for name in own},
        **{name: getattr(members[0].config, name) for name in SHARED},
    )
    with torch.device(members[0].device):
        frozen = FrozenCommitteeForSequenceClassification(config)
    for position, member in enumerate(members):
        _fill_tables(frozen, position, copy.deepcopy(member).float(), cls_token_id)
    for weights in (frozen.classifier.weight, frozen.classifier.bias):
        weights.mul_(committee.member_weight)
    return frozen


def _fill_tables(frozen: FrozenCommitteeForSequenceClassification, k: int, member: Any, cls_token_id: int) -> None:
    """Tables of member k in float32, by the formulas at the head of this file."""
    embeddings, layer = member.bert.embeddings, member.bert.encoder.layer[0]
    attention, output, norm = layer.attention.self, layer.attention.output, embeddings.LayerNorm
    rows, heads, types = len(frozen.position_scores), frozen.scores.shape[2], frozen.config.type_vocab_size
    words = embeddings.word_embeddings.weight
    places = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[:types, None]
    places = places.flatten(0, 1)  # those of token type 1 behind those of 0
    first = norm(words[cls_token_id] + places[0])
    query = attention.query(first).view(heads, -1) * attention.scaling
    absorbed = torch.einsum("hd,hdc->hc", query, attention.key.weight.view(heads, -1, len(first))) * norm.weight
    value = attention.value.weight * norm.weight
    words, places = words - words.mean(1, keepdim=True), places - places.mean(1, keepdim=True)
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        chosen = slice(start, start + len(block))
        squares = (block**2).sum(1)[:, None] + (places**2).sum(1) + 2 * block @ places.t()
        frozen.scale[chosen, :, k] = (squares / len(first) + norm.eps).rsqrt()
        frozen.scores[chosen, k] = block @ absorbed.t()
        values = (block @ value.t()).view(len(block), heads, -1)
        if frozen.values.dtype == torch.uint8:
            values = torch.ops.quantized.embedding_bag_byte_prepack(values)
        frozen.values[chosen, k] = values
    frozen.position_scores[:, k] = places @ absorbed.t()
    frozen.position_values[k] = (places @ value.t()).view(rows, heads, -1).transpose(0, 1)
    # What is added to every text, and what a LayerNorm multiplies by, goes into the layer behind it.
    frozen.attention_output.fill(k, output.dense.weight, output.dense(attention.value(norm.bias)) + first)
    norm, dense = output.LayerNorm, layer.intermediate.dense
    frozen.gain[k] = norm.weight
    frozen.intermediate.fill(k, dense.weight * norm.weight, dense(norm.bias))
    frozen.output.fill(k, layer.output.dense.weight, layer.output.dense.bias + norm.bias)
    norm, dense = layer.output.LayerNorm, member.bert.pooler.dense
    frozen.pooler.fill(k, dense.weight * norm.weight, dense(norm.bias))
    frozen.classifier.fill(k, member.classifier.weight, member.classifier.bias)


FrozenCommitteeForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
