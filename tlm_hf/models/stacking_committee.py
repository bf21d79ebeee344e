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
"""Members of one shape answered together: the fast inference of a committee (exact, to rounding).

This file travels to the Hub as remote code; it needs torch and transformers only. Notation as in `fast_paths_tlm`: K
members, B texts, T positions, hidden size h, heads H, head size d.

A member with one layer and no convolution is, for its class logits, an attention-weighted pooling of its embeddings
(the keys and values are absorbed, the queries constant: sections 1 to 3 of `fast_paths_tlm`), followed by matrix
products on one row a text. Here both parts run for all members at once:

1. Pooling. For each member and text x_t = LayerNorm(word + position + type), a_h = softmax(u_h . x_t), and sum_t a_h,t
   x_t; (K, B, H, h). It is done in pieces that stay in the cache (`TOKENS_AT_ONCE` rows of x), texts of like length
   together, padding left out: the (K, B, T, h) embeddings are never held as a whole.
2. The rest. Value and output projection, feed-forward block, pooler and classifier as batched products over stacked
   weights, (K, B, in) x (K, in, out).

Stacking holds no second copy: a stacked weight is one tensor (K, ...), and the members' parameters become views of it
(`MemberStack`), one weight after the other. The word embeddings, three quarters of all weights at h = 768, stay where
they are: transformers maps them from the file, and only the rows that texts need are ever read. Saving, training and
splitting members off work as before; only a pickle (`torch.save`) of a single member's weights then holds the whole
stack, so keep members with `save_pretrained`. A member of two committees is stacked by the one that answers first, for
as long as that one lives; in the other it answers on its own.

The u_h of texts that start alike are constants, kept from call to call (the query and key projections are 2 of the 13
h^2 weights that a text needs, a seventh of the time of a single text). They are made anew when the row at the first
position, a bias or a version counter changed (by any edit but those through `.data`), or when a sample of the two
matrices did (`.data` has no counter; averaging, copying and loading change the sample). All else is read at each call.

Conditions (`stack_members` and `MemberStack.is_current`): evaluation, no gradients, no torch.compile or export, a CPU,
members of one layer without convolution that nothing was put around (no hooks, adapters, quantised layers or
replaced `forward`) and with `use_fast_path`; a 2-d mask, or none, with a token in each row. Whoever does not meet them
answers on its own.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .fast_paths_tlm import is_bare, pack_positions
from .memory_committee import page_out
from .modeling_tlm import TLMForSequenceClassification

OWNERS: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[MemberStack]]" = weakref.WeakKeyDictionary()
"""The stack whose views a member's weights are."""
TOKENS_AT_ONCE = 1024
"""Rows of embeddings in a piece: at h = 768 they take 3 MB."""

SAMPLED = 16
"""Rows and columns of a matrix whose entries are compared to see whether it was changed."""
FEW_TEXTS = 4
"""Up to so many rows W x^T is two to three times as fast as x W^T (MKL, float32, h = 768); from 8 on it is slower."""

WORDS = "bert.embeddings.word_embeddings.weight"
EMBEDDINGS = "bert.embeddings."
ATTENTION = "bert.encoder.layer.0.attention."
FEED_FORWARD = "bert.encoder.layer.0."


def shape_of(member: Any) -> tuple[Any, ...] | None:
    """What members must share to be stacked; None for a member that cannot be."""
    config = member.config
    if type(member) is not TLMForSequenceClassification:
        return None
    # CODEPATH: bert-1 and bert-1-wide are stacked; bert-6 and bert-1-conv* answer alone.
    if config.num_hidden_layers != 1 or config.has_convolution:
        return None
    with torch.device("meta"):
        plain = TLMForSequenceClassification(config)
    if [(name, type(module)) for name, module in plain.named_modules()] != [
        (name, type(module)) for name, module in member.named_modules()
    ]:  # an adapter, a quantised layer, a pooler of the user's own
        return None
    weights = [(name, tuple(weight.shape)) for name, weight in member.named_parameters()]
    if weights != [(name, tuple(weight.shape)) for name, weight in plain.named_parameters()]:
        return None
    kinds = {(type(weight), weight.dtype, weight.device) for weight in member.parameters()}
    if len(kinds) != 1 or (kind := kinds.pop())[0] is not nn.Parameter or kind[2].type != "cpu":
        return None
    return (config.num_attention_heads, config.hidden_act, config.layer_norm_eps, kind[1], *weights)


class MemberStack:
    """Members of one shape whose parameters are views of stacked tensors.

    Args:
        members: at least one `TLMForSequenceClassification`, all with the same `shape_of`.
        positions: their places in the committee.
    """

    def __init__(self, members: Sequence[Any], positions: Sequence[int]) -> None:
        self.positions = list(positions)
        self.config = members[0].config
        self.weights: dict[str, torch.Tensor] = {}
        found = [list(member.named_parameters()) for member in members]
        # Not in inference mode, whatever the caller's: its tensors could never be trained again.
        with torch.inference_mode(False), torch.no_grad():
            for entries in zip(*found, strict=True):
                name, first = entries[0]
                if name == WORDS:
                    continue
                stacked = torch.empty((len(entries), *first.shape), dtype=first.dtype)
                for place, (_, weight) in zip(stacked, entries, strict=True):
                    place.copy_(weight)
                    before, weight.data = weight.data, place  # what it held before is free now
                    page_out(before)
                self.weights[name] = stacked
        modules = [module for member in members for module in member.modules()]
        self._parents = [(module, tuple(module._modules.values())) for module in modules]
        self._held = [
            (module, name, weight, weight.data_ptr())
            for module in modules
            for name, weight in module._parameters.items()
            if weight is not None
        ]
        self._dropouts = [module for module in modules if isinstance(module, nn.Dropout)]
        self._members = list(members)
        names = [f"{ATTENTION}self.{name}" for name in ("query.weight", "query.bias", "key.weight")]
        self._asked_of = [member.get_parameter(name) for member in members for name in names]
        for member in members:
            OWNERS[member] = weakref.ref(self)
        self._kept: tuple[Any, ...] | None = None
        self._words = [member.get_parameter(WORDS) for member in members]

    def is_current(self) -> bool:
        """Whether the members are made of the modules that were stacked, with weights that are views of the stack."""
        return all(tuple(module._modules.values()) == children for module, children in self._parents) and all(
            module._parameters.get(name) is weight and weight.data_ptr() == place
            for module, name, weight, place in self._held
        )

    def is_answerable(self) -> bool:
        """Whether nothing stands around a module, no dropout is on, and the members' switches are as they were."""
        return (
            is_bare(*(module for module, _ in self._parents))
            and not any(module.training and module.p > 0 for module in self._dropouts)
            and all(
                # Other backends may compute something else.
                member.config.use_fast_path
                and member.config._attn_implementation in (None, "eager", "sdpa")  # trf-ignore: TRF051
                for member in self._members
            )
        )

    def answer(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of all members.

        Args:
            input_ids: int64 (batch, sequence).
            attention_mask: (batch, sequence), not 0 in at least one place of each row; None for all ones.
            token_type_ids: int64 (batch, sequence); None for zeros.
            position_ids: int64 (batch or 1, sequence); None for 0 .. sequence - 1.

        Returns:
            (members of the stack, batch, num_labels).
        """
        batch, length = input_ids.shape
        types = None if token_type_ids is None else token_type_ids.expand(batch, -1)
        positions = None if position_ids is None else position_ids.expand(batch, -1)
        lengths = torch.full((batch,), length)
        added = self._added(types is not None)
        # The first position is read, whether or not it is masked.
        first = self._first_row(input_ids, positions, types, added)
        kept = None if attention_mask is None else attention_mask != 0
        if kept is not None and not bool(kept.all()):
            lengths = kept.sum(dim=1)
            if bool((kept[:, 1:] & ~kept[:, :-1]).any()):  # padding that is not behind: bring the tokens to the front
                places, _ = pack_positions(kept)
                input_ids = input_ids.gather(1, places)
                positions = places if positions is None else positions.gather(1, places)
                types = None if types is None else types.gather(1, places)
        same = bool((first == first[:, :1]).all())
        pooled = self._pool(first[:, :1] if same else first, input_ids, positions, types, lengths, added)
        return self._classify(first, pooled)

    def _embed(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor | None,
        types: torch.Tensor | None,
        added: torch.Tensor,
        members: slice = slice(None),
    ) -> torch.Tensor:
        """The layer's input without the LayerNorm's weight and bias, (members, batch, sequence, hidden).

        Args:
            input_ids: int64 (batch, sequence).
            positions: likewise, or None for 0 .. sequence - 1.
            types: likewise, or None for zeros.
            added: what `_added` gives.
            members: which of them.
        """
        words, rows = self._words[members], input_ids.flatten()
        hidden = words[0].shape[1]
        states = torch.empty((len(words), len(rows), hidden), dtype=words[0].dtype)
        for place, table in zip(states, words, strict=True):
            torch.index_select(table, 0, rows, out=place)
        states = states.view(len(words), *input_ids.shape, hidden)
        if positions is None:
            states += added[members, None, : input_ids.shape[1]]
        else:
            states += added[members][:, positions]
        if types is not None:
            states += self.weights[f"{EMBEDDINGS}token_type_embeddings.weight"][members][:, types]
        return nn.functional.layer_norm(states, (hidden,), eps=self.config.layer_norm_eps)

    def _added(self, has_types: bool) -> torch.Tensor:
        """Position embeddings, with the first token type's where no types were given: (members, positions, hidden)."""
        table = self.weights[f"{EMBEDDINGS}position_embeddings.weight"]
        if has_types:
            return table
        return table + self.weights[f"{EMBEDDINGS}token_type_embeddings.weight"][:, :1]

    def _first_row(
        self, input_ids: torch.Tensor, positions: torch.Tensor | None, types: torch.Tensor | None, added: torch.Tensor
    ) -> torch.Tensor:
        """The layer's input at the first position, (members, batch, hidden); `added` is what `_added` gives."""
        longest = added.shape[1]
        if input_ids.shape[1] > longest:
            raise ValueError(
                f"The input has {input_ids.shape[1]} tokens but max_position_embeddings is {longest}: "
                f"truncate it (tokenizer(..., truncation=True, max_length={longest}))."
            )
        place, kind = (None if tensor is None else tensor[:, :1] for tensor in (positions, types))
        states = self._embed(input_ids[:, :1], place, kind, added)[:, :, 0]
        return self._scaled(states, f"{EMBEDDINGS}LayerNorm")

    def _scaled(self, states: torch.Tensor, name: str) -> torch.Tensor:
        """LayerNorm's weight and bias on normalised (members, ..., hidden), in place."""
        shape = (len(states), *[1] * (states.dim() - 2), -1)
        return states.mul_(self.weights[f"{name}.weight"].view(shape)).add_(self.weights[f"{name}.bias"].view(shape))

    def _norm(self, states: torch.Tensor, name: str) -> torch.Tensor:
        """LayerNorm of (members, ..., hidden)."""
        states = nn.functional.layer_norm(states, states.shape[-1:], eps=self.config.layer_norm_eps)
        return self._scaled(states, name)

    def _product(self, states: torch.Tensor, name: str) -> torch.Tensor:
        """Linear layer of (members, batch, in) to (members, batch, out)."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return times_transposed(states, weight) + bias[:, None]

    def _pool(
        self,
        first: torch.Tensor,
        input_ids: torch.Tensor,
        positions: torch.Tensor | None,
        types: torch.Tensor | None,
        lengths: torch.Tensor,
        added: torch.Tensor,
    ) -> torch.Tensor:
        """Attend from the first row of each text, keys absorbed.

        Args:
            first: the layer's input there, (members, batch, hidden), or (members, 1, hidden) where all are equal.
            input_ids: int64 (batch, sequence), tokens in front and what fills up behind.
            positions: likewise, or None for 0 .. sequence - 1.
            types: likewise, or None for zeros.
            lengths: int64 (batch,), tokens of each text.
            added: what `_added` gives.

        Returns:
            (members, batch, heads, hidden): the sum of the layer's inputs, weighted by each head's attention.
        """
        members, _, hidden = first.shape
        heads = self.config.num_attention_heads
        asked = self._asking(first)
        # The LayerNorm's weight goes into the vectors that ask, and its bias adds the same to all scores of a text.
        asked = asked * self.weights[f"{EMBEDDINGS}LayerNorm.weight"][:, None, None]
        batch, length = input_ids.shape
        pooled = first.new_empty((members, batch, heads, hidden))
        order = torch.argsort(lengths, stable=True)
        sizes = lengths[order].tolist()
        at_once = max(1, min(members, TOKENS_AT_ONCE // (batch * length)))
        start = 0
        while start < batch:
            stop = start + 1  # the texts are sorted, so the last of a piece is the longest
            while stop < batch and (stop + 1 - start) * sizes[stop] <= TOKENS_AT_ONCE:
                stop += 1
            rows, longest = order[start:stop], sizes[stop - 1]
            ids = input_ids[rows, :longest]
            places, kinds = (None if tensor is None else tensor[rows, :longest] for tensor in (positions, types))
            padding = None
            if sizes[start] < longest:
                padding = torch.arange(longest) >= lengths[rows][:, None, None]
            for member in range(0, members, at_once):
                part = slice(member, min(member + at_once, members))
                states = self._embed(ids, places, kinds, added, part).flatten(0, 1)
                wanted = asked[part] if asked.shape[1] == 1 else asked[part][:, rows]
                wanted = wanted.expand(-1, len(rows), -1, -1).flatten(0, 1)
                scores = torch.bmm(wanted, states.transpose(1, 2))
                if padding is not None:
                    scores.unflatten(0, (-1, len(rows))).masked_fill_(padding, torch.finfo(scores.dtype).min)
                weights = scores.softmax(dim=-1).to(states.dtype)
                pooled[part, rows] = torch.bmm(weights, states).unflatten(0, (-1, len(rows))).to(pooled.dtype)
            start = stop
        return self._scaled(pooled, f"{EMBEDDINGS}LayerNorm")  # the weights sum to 1, so the bias comes in once

    def _asking(self, first: torch.Tensor) -> torch.Tensor:
        """The u_h of the rows at the first position: (members, rows, hidden) to (members, rows, heads, hidden)."""
        known = self._state() if first.shape[1] == 1 else None
        if known is not None and self._kept is not None:
            state, sample, row, asked = self._kept
            if state == known and torch.equal(row, first) and torch.equal(sample, self._sample()):
                return asked
        heads = self.config.num_attention_heads
        query = self._product(first, f"{ATTENTION}self.query") * (first.shape[2] // heads) ** -0.5
        key = self.weights[f"{ATTENTION}self.key.weight"].unflatten(1, (heads, -1))  # (K, H, d, h)
        asked = torch.einsum("kbhd,khdc->kbhc", query.unflatten(-1, (heads, -1)), key)
        self._kept = None if known is None else (known, self._sample(), first.clone(), asked)
        return asked

    def _state(self) -> tuple[Any, ...] | None:
        """Version counters of the weights behind the u_h, and autocast; None where there are no counters."""
        try:
            return (torch.is_autocast_enabled("cpu"), *(weight._version for weight in self._asked_of))
        except RuntimeError:  # weights that were made in inference mode
            return None

    def _sample(self) -> torch.Tensor:
        """Entries of the query and key matrices, all over them, and the whole query bias: (members, entries)."""
        matrices = (self.weights[f"{ATTENTION}self.{name}.weight"] for name in ("query", "key"))
        step = max(1, self.config.hidden_size // SAMPLED)
        entries = [matrix[:, ::step, ::step].flatten(1) for matrix in matrices]
        return torch.cat([*entries, self.weights[f"{ATTENTION}self.query.bias"]], dim=1)

    def _classify(self, first: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """(members, batch, hidden) and (members, batch, heads, hidden) to logits (members, batch, num_labels)."""
        heads = pooled.shape[2]
        value = self.weights[f"{ATTENTION}self.value.weight"].unflatten(1, (heads, -1)).flatten(0, 1)
        context = times_transposed(pooled.transpose(1, 2).flatten(0, 1), value)  # (K H, B, d)
        context = context.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)
        context = context + self.weights[f"{ATTENTION}self.value.bias"][:, None]
        states = self._product(context, f"{ATTENTION}output.dense") + first
        states = self._norm(states, f"{ATTENTION}output.LayerNorm")
        activation = self._members[0].bert.encoder.layer[0].intermediate.intermediate_act_fn
        inner = activation(self._product(states, f"{FEED_FORWARD}intermediate.dense"))
        states = self._product(inner, f"{FEED_FORWARD}output.dense") + states
        states = self._norm(states, f"{FEED_FORWARD}output.LayerNorm")
        states = torch.tanh(self._product(states, "bert.pooler.dense"))
        return self._product(states, "classifier")


def times_transposed(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(n, rows, in) x (n, out, in) to (n, rows, out), in the order that is fast for so many rows."""
    if states.shape[1] <= FEW_TEXTS:
        return torch.bmm(weight, states.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(states, weight.transpose(1, 2))


def stack_members(members: Sequence[Any]) -> tuple[list[MemberStack], list[Any]]:
    """Stacks of the members that can be stacked, those of one shape together.

    Returns:
        The stacks, and weak references to those of other committees, in which some of the members lie already: while
        they live, those members are not stacked here.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    seen: set[int] = set()
    elsewhere = []
    for position, member in enumerate(members):
        owner = OWNERS.get(member)
        if owner is not None and (stack := owner()) is not None and stack.is_current():
            elsewhere.append(owner)
            continue
        shape = shape_of(member)
        own = {id(weight) for name, weight in member.named_parameters() if name != WORDS}
        if shape is not None and not own & seen:  # members that share a weight cannot both be views of their own
            groups.setdefault(shape, []).append(position)
        seen |= own
    return [MemberStack([members[place] for place in places], places) for places in groups.values()], elsewhere


__all__ = ["MemberStack", "stack_members"]
