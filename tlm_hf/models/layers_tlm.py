# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the encoder that differ from stock BERT's, with its names of modules and weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertIntermediate, BertOutput, BertSelfOutput

from .configuration_tlm import TLMConfig
from .fast_paths_tlm import Queries, TLMDropout, absorbed_attention, add_mask, is_absorbed, is_ragged

LONGEST_EAGER = 512  # beyond, the matrix of attention weights costs more memory than it saves time


class TLMEmbeddings(nn.Module):
    """Word + position + token-type embeddings, LayerNorm, dropout (stock BERT's, without its index buffers)."""

    def __init__(self, config: TLMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = TLMDropout(config.hidden_dropout_prob, config)

    def forward(self, input_ids: Any, token_type_ids: Any, position_ids: Any, inputs_embeds: Any) -> Tensor:
        """To (batch, sequence, hidden)."""
        hidden_states = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            # Made here, not kept as a buffer: non-persistent buffers come back as garbage from a meta-device load.
            position_ids = torch.arange(hidden_states.shape[1], device=hidden_states.device)[None]
        types = torch.zeros_like(position_ids) if token_type_ids is None else token_type_ids
        hidden_states = hidden_states + self.token_type_embeddings(types) + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(hidden_states))


def eager_attention_forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Attend over (batch, heads, sequence, head_size); returns (batch, sequence, heads, head_size) and weights."""
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    weights = module.dropout(add_mask(scores, attention_mask).softmax(dim=-1))
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class TLMSelfAttention(nn.Module):
    """Multi-head attention whose queries may come from fewer positions than its keys and values."""

    def __init__(self, config: TLMConfig) -> None:
        super().__init__()
        self.config = config
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        self.is_causal = False
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = TLMDropout(config.attention_probs_dropout_prob, config)

    def _implementation(self, hidden_states: Tensor, mask: Tensor | None) -> str | None:
        # In training on a CPU sdpa has no kernel with dropout; the one without took 3 times eager's time in bfloat16.
        chosen = self.config._attn_implementation
        # Without asking for gradients: reentrant activation checkpointing takes none in its first pass.
        trains = self.training and hidden_states.device.type == "cpu" and not torch.compiler.is_compiling()
        # CODEPATH: a user's switch, on in every checkpoint of ours.
        if not (self.config.use_fast_path and chosen == "sdpa" and trains and hidden_states.shape[1] <= LONGEST_EAGER):
            return chosen
        # Of a text that is all padding sdpa makes 0, eager the mean.
        return chosen if mask is not None and mask.dtype == torch.bool and not mask.any(dim=-1).all() else "eager"

    def forward(
        self, query_states: Tensor, states: Tensor, mask: Tensor | None, queries: Queries | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from (batch, positions, hidden), or only its `queries`, to `states` (batch, sequence, hidden)."""
        length = states.shape[1]
        if queries is not None and (queries.is_query is not None or is_absorbed(self, query_states.shape[1], length)):
            return absorbed_attention(self, query_states, states, mask, queries.is_query), None
        chosen = self._implementation(states, mask)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(chosen, eager_attention_forward)
        projected = (self.query(query_states), self.key(states), self.value(states))
        heads = [each.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for each in projected]
        options = {"dropout": self.dropout.p if self.training else 0.0, "scaling": self.scaling, **kwargs}
        context, weights = attention(self, *heads, mask, **options)
        return context.reshape(query_states.shape).contiguous(), weights


class TLMAttention(nn.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: TLMConfig) -> None:
        super().__init__()
        self.self = TLMSelfAttention(config)
        self.output = BertSelfOutput(config)
        self.output.dropout = TLMDropout(config.hidden_dropout_prob, config)

    def forward(self, states: Tensor, mask: Tensor | None, queries: Queries | None = None, **kwargs: Any) -> Tensor:
        if queries is None:
            context, _ = self.self(states, states, mask, **kwargs)
            return self.output(context, states)
        # A padding mask is the same for every query, so one row of it serves them all.
        mask = None if mask is None else mask[:, :, :1]
        ragged = is_ragged(self.self, states, queries)
        reads = queries if ragged else Queries(queries.positions)
        residual = reads.read(states)
        context, _ = self.self(residual, states, mask, reads, **kwargs)
        if queries.is_query is not None and not ragged:
            context, residual = context[queries.is_query], residual[queries.is_query]
        return self.output(context, residual)


class TLMLayer(GradientCheckpointingLayer):
    """One transformer layer (stock BERT's, post-LayerNorm)."""

    def __init__(self, config: TLMConfig) -> None:
        super().__init__()
        self.attention = TLMAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)
        self.output.dropout = TLMDropout(config.hidden_dropout_prob, config)

    def forward(self, states: Tensor, mask: Tensor | None, queries: Queries | None = None, **kwargs: Any) -> Tensor:
        """Transform (batch, sequence, hidden), or compute the output at the queries only (shapes of their `read`)."""
        states = self.attention(states, mask, queries, **kwargs)
        return self.output(self.intermediate(states), states)


class TLMEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: TLMConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([TLMLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, states: Tensor, mask: Tensor | None, queries: Queries | None, **kwargs: Any) -> Tensor:
        """Run every layer in full and the last one at the queries; shapes as in `TLMLayer.forward`."""
        for layer in self.layer[:-1]:
            states = layer(states, mask, **kwargs)  # positional: output capture needs it
        return self.layer[-1](states, mask, queries, **kwargs)
