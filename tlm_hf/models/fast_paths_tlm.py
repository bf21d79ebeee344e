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
"""Exact fast paths: the same function as stock BERT, to rounding, with less arithmetic and less memory traffic.

This file travels to the Hub as remote code; it needs torch only. Notation: hidden size h, sequence length T, heads H,
head size d = h/H, vocabulary V, n positions of a text that are read ("queries"). Everything here is taken when
`config.use_fast_path` and the conditions named below hold; otherwise the plain path runs.

1. Reduced last layer. The queries, the attention output, the feed-forward block and both LayerNorms act on each
   position alone, so in the last layer they are computed only where the head reads: at the n masked positions in
   masked-language-model training (about 15% of T), at [CLS] for classification. Keys and values are needed at all T.
   Conditions: no hidden states or attentions asked for, a mask that is the same for every query (2-d), eager or sdpa.

2. Absorbed keys and values (`absorbed_attention`). With x_t the layer's input at t, W_k,h and W_v,h the (d, h) blocks
   of head h, and q_h the query of a head,

       score_t   = q_h . (W_k,h x_t + b_k,h)          = (W_k,h^T q_h) . x_t + q_h . b_k,h = u_h . x_t + const
       context_h = sum_t a_t (W_v,h x_t + b_v,h)      = W_v,h (sum_t a_t x_t) + b_v,h sum_t a_t

   so two h x h projections of T tokens become nH vectors u_h of size h, and as many pooled inputs. The constant is the
   same for all t and drops out of the softmax; it is kept where gradients are taken, since the stock bias has one (0 to
   rounding). sum_t a_t is 1 only without attention dropout. Multiply-adds of a text: 2 n h^2 + 2 n H T h in place of
   2 T h^2 + 2 n T h for keys, values and what is done with them; taken when that is less (`is_absorbed`). Conditions: a
   reduced last layer, and `key` and `value` plain `nn.Linear` (not a LoRA or quantised layer, no hooks on them). On a
   CPU texts with different n are multiplied one by one, so that none is filled up (`is_ragged`).

3. Constant query. In a one-layer encoder without convolution the input at [CLS] is LayerNorm(word[CLS] + position[0] +
   type[0]): the same row for every text that starts alike. Then one query, and one u_h, serve the batch. Conditions:
   one position read of each text, the rows found equal (whatever made them so: `rows_are_equal` compares them), `query`
   plain, a CPU, and no gradient wanted (each text's row must get its own). Reading the data would break a graph, so
   torch.compile and torch.export take a query for each text.

4. `sixteen_bit_dropout`. On a CPU torch draws a number for each element (`aten::bernoulli_`), one after the other;
   here 16 random bits decide, four elements a draw. The probability is rounded to 1/65536 and the scale is the rounded
   probability's, so the expectation is exact in float32 (in half precision the scale is rounded, as torch's is).
   Another stream of random numbers than torch's, the same distribution.

5. `MaskedLMLoss`. Decoder and cross-entropy as one function that takes softmax and its gradient in one pass, and the
   gradient of the tied word embedding as decoder part plus the rows that were read, without a second (V, h) matrix.
   CPU, tied or not, `nn.Linear` decoder with a bias; there is no second gradient (`create_graph=True`, `torch.func`).

6. `narrowed`. In training under autocast on a CPU the states between the layers are in autocast's dtype too. This one
   is not exact beyond that dtype; float32 training is untouched.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

IGNORE_INDEX = -100
LOGITS_AT_ONCE = 2_000_000
"""Logits that the loss turns into float32 at a time: 8 MB, which stay in the cache between the passes over them."""


class Queries(NamedTuple):
    """Where the last layer is read.

    Args:
        positions: int64 (batch, n).
        is_query: bool (batch, n): keep these slots alone and flatten; None keeps all as (batch, n).
    """

    positions: torch.Tensor
    is_query: torch.Tensor | None = None


def pack_positions(selected: torch.Tensor, num_predictions: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Gather the selected positions of each row at its front, in order.

    Args:
        selected: bool, (batch, sequence).
        num_predictions: width n of the result, for static shapes; None for the largest count of a row (at least 1).

    Returns:
        positions: int64, (batch, n).
        is_query: bool, (batch, n), False at the slots that only fill up shorter rows; so
            `values.gather(1, positions)[is_query]` equals `values[selected]`.
    """
    counts = selected.sum(dim=1)
    queries = max(int(counts.max()), 1) if num_predictions is None else num_predictions
    positions = torch.argsort(selected.to(torch.uint8), dim=1, descending=True, stable=True)[:, :queries]
    is_query = torch.arange(positions.shape[1], device=selected.device) < counts[:, None]
    return positions, is_query


def rows_are_equal(states: torch.Tensor) -> bool:
    """Whether every text of (batch, n, hidden) has the same rows, so that one query serves all (n = 1, no gradient).

    False where reading them would cost a transfer (an accelerator) or a branch in a graph (compile, export, trace).
    """
    read = states.shape[0] > 1 and states.shape[1] == 1 and states.device.type == "cpu"
    if not read or states.requires_grad or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return bool((states == states[:1]).all())


def is_bare(*modules: nn.Module) -> bool:
    """Whether nothing stands around the modules: no hook, no `forward` of their own (Accelerate's offloading)."""
    return not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        for module in modules
    )


def is_plain(module: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether the module is exactly of this kind on plain weights, so that reading its weight is calling it.

    Not one with hooks, an adapter or quantised weights, nor one whose `forward` was replaced.
    """
    return type(module) is kind and type(module.weight) in (nn.Parameter, torch.Tensor) and is_bare(module)


def is_absorbed(attention: Any, queries: int, length: int) -> bool:
    """Whether `absorbed_attention` is possible and needs fewer multiply-adds than projecting keys and values.

    Args:
        attention: a `TLMSelfAttention`.
        queries: n, positions read of each text.
        length: T, positions of each text.
    """
    if not (is_plain(attention.key) and is_plain(attention.value)):
        return False
    hidden = attention.key.in_features
    heads = hidden // attention.head_size
    absorbed = 2 * queries * hidden * hidden + 2 * queries * heads * length * hidden
    projected = 2 * length * hidden * hidden + 2 * queries * length * hidden
    return absorbed < projected


def is_ragged(attention: Any, queries: Queries, hidden_states: torch.Tensor) -> bool:
    """Whether keys and values are absorbed text by text: on a CPU, where a small product each costs no more."""
    eager = hidden_states.device.type == "cpu" and not torch.compiler.is_compiling()
    absorbed = is_absorbed(attention, queries.positions.shape[1], hidden_states.shape[1])
    return eager and absorbed and queries.is_query is not None


def read_rows(queries: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """The rows of (batch, sequence, hidden) at the real queries, text after text (rows, hidden), and their counts."""
    starts = torch.arange(hidden_states.shape[0])[:, None] * hidden_states.shape[1]
    rows = hidden_states.flatten(0, 1).index_select(0, (queries.positions + starts)[queries.is_query])
    return rows, queries.is_query.sum(dim=1).tolist()


def absorbed_attention(
    attention: Any,
    query_states: torch.Tensor,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    counts: list[int] | None = None,
) -> torch.Tensor:
    """Attend without projecting keys and values (section 2 of this file's head).

    Args:
        attention: a `TLMSelfAttention` with plain `key` and `value`.
        query_states: the layer's input where it is read: (batch, n, hidden); (1, n, hidden) for a constant query; or
            (rows, hidden), text after text, with `counts`.
        hidden_states: (batch, sequence, hidden), the layer's input.
        attention_mask: None, or (batch, 1, 1, sequence): bool (True where attended) or added to the scores.
        counts: rows that each text has in `query_states`.

    Returns:
        The shape of `query_states` (a batch for a constant query): the heads' contexts side by side, before the output
        projection.
    """
    key, value, head_size = attention.key, attention.value, attention.head_size
    query = (attention.query(query_states) * attention.scaling).unflatten(-1, (-1, head_size))
    absorbed = torch.einsum("...hd,hdc->...hc", query, key.weight.unflatten(0, (-1, head_size)))
    if counts is not None:
        sizes = [count * absorbed.shape[-2] for count in counts]
        scores = _TextProduct.apply(absorbed.flatten(0, 1), hidden_states, sizes, True).unflatten(0, absorbed.shape[:2])
        if attention_mask is not None:
            rows = torch.tensor(counts, device=hidden_states.device)
            attention_mask = attention_mask[:, 0].repeat_interleave(rows, dim=0)
    elif absorbed.shape[0] < hidden_states.shape[0]:
        scores = torch.einsum("nhc,btc->bnht", absorbed[0], hidden_states)
    else:
        scores = torch.einsum("bnhc,btc->bnht", absorbed, hidden_states)
    if torch.is_grad_enabled() and key.bias is not None and key.bias.requires_grad:
        scores = scores + (query * key.bias.unflatten(0, (-1, head_size))).sum(dim=-1, keepdim=True)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = attention.dropout(scores.softmax(dim=-1))
    if counts is not None:
        pooled = _TextProduct.apply(weights.flatten(0, 1), hidden_states, sizes, False).unflatten(0, absorbed.shape[:2])
    else:
        pooled = torch.einsum("bnht,btc->bnhc", weights, hidden_states.to(weights.dtype))
    context = torch.einsum("...hc,hdc->...hd", pooled, value.weight.unflatten(0, (-1, head_size)))
    if value.bias is not None:
        bias = value.bias.unflatten(0, (-1, head_size))
        dropped = attention.training and attention.dropout.p > 0
        context = context + (weights.sum(dim=-1, keepdim=True) * bias if dropped else bias)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        context = context * attention_mask.any(dim=-1, keepdim=True)  # of a text that is all padding sdpa makes 0
    return context.flatten(-2)


class _TextProduct(torch.autograd.Function):
    """Each text's own rows times its matrix: texts with more and with fewer rows need no filling up.

    rows (all, k), matrices (batch, sequence, hidden), sizes (rows of each text): rows_b @ matrix_b^T (all, sequence)
    where `transposed` and k = hidden, else rows_b @ matrix_b (all, hidden) with k = sequence.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, matrices: torch.Tensor, sizes: list[int], transposed: bool
    ) -> torch.Tensor:
        """See the class."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else rows.dtype
        ctx.dtypes, ctx.sizes, ctx.transposed = (rows.dtype, matrices.dtype), sizes, transposed
        rows, matrices = rows.to(dtype), matrices.to(dtype)
        ctx.save_for_backward(rows, matrices)
        product = rows.new_empty(rows.shape[0], matrices.shape[1 if transposed else 2])
        for out, part, matrix in zip(product.split(sizes), rows.split(sizes), matrices, strict=True):
            torch.mm(part, matrix.t() if transposed else matrix, out=out)
        return product

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Both factors' gradients, text by text."""
        refuse_second_gradient()
        rows, matrices = ctx.saved_tensors
        of_rows, of_matrices = torch.empty_like(rows), torch.empty_like(matrices)
        parts = zip(
            gradient.to(rows.dtype).split(ctx.sizes), rows.split(ctx.sizes), matrices, of_rows.split(ctx.sizes),
            of_matrices, strict=True,
        )  # fmt: skip
        for change, part, matrix, of_part, of_matrix in parts:
            torch.mm(change, matrix if ctx.transposed else matrix.t(), out=of_part)
            torch.mm(*((change.t(), part) if ctx.transposed else (part.t(), change)), out=of_matrix)
        return of_rows.to(ctx.dtypes[0]), of_matrices.to(ctx.dtypes[1]), None, None


def dropout(states: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Zero elements with `probability` in training and scale the rest up; on a CPU by `sixteen_bit_dropout`."""
    is_drawn = training and 0 < round(probability * 65536) < 65536
    if is_drawn and states.device.type == "cpu" and not torch.compiler.is_compiling():
        return sixteen_bit_dropout(states, probability)
    return nn.functional.dropout(states, probability, training)


def sixteen_bit_dropout(states: torch.Tensor, probability: float) -> torch.Tensor:
    """Dropout decided by 16 random bits an element, from torch's generator (section 4 of this file's head)."""
    dropped = round(probability * 65536)
    words = torch.empty((states.numel() + 3) // 4, dtype=torch.int64, device=states.device)
    bits = words.random_(-(2**63), None).view(torch.int16)[: states.numel()].view(states.shape)
    # The mask in the states' own type: a product with bool would convert it in both passes.
    return states * (bits >= dropped - 32768).to(states.dtype).mul_(65536 / (65536 - dropped))


class TLMDropout(nn.Dropout):
    """`nn.Dropout` by `dropout` above, or torch's own with `config.use_fast_path = False`."""

    def __init__(self, probability: float, config: Any) -> None:
        super().__init__(probability)
        self.config = config

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Any shape to the same shape."""
        # CODEPATH: a user's switch, on in every checkpoint of ours; both sides are equal to rounding.
        return dropout(states, self.p, self.training) if self.config.use_fast_path else super().forward(states)


def refuse_second_gradient() -> None:
    """Raise NotImplementedError in a backward pass that is itself to be differentiated (`create_graph=True`)."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "The fast paths of masked-language-model training have no second gradient: set config.use_fast_path=False."
        )


def loss_is_fused(decoder: nn.Module) -> bool:
    """Whether `MaskedLMLoss` may stand in for decoder and cross-entropy: CPU, plain decoder, gradients wanted."""
    return (
        is_plain(decoder)
        and decoder.bias is not None
        and decoder.weight.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def sum_masked_lm_loss(
    decoder: nn.Linear, hidden_states: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode and take the cross-entropy.

    Args:
        decoder: (vocab_size, hidden), plain (`loss_is_fused`).
        hidden_states: (positions, hidden).
        labels: int64 (positions,), each a token id.

    Returns:
        The sum of the cross-entropies in nats (float32 scalar), and the logits (positions, vocab_size).
    """
    return MaskedLMLoss.apply(hidden_states, decoder.weight, decoder.bias, labels)


class MaskedLMLoss(torch.autograd.Function):
    """Decoder and summed cross-entropy (section 5 of this file's head); float32 sums over logits of any dtype."""

    @staticmethod
    def forward(
        ctx: Any, hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `sum_masked_lm_loss`; under autocast the products are taken in its dtype."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        ctx.dtypes = hidden_states.dtype, weight.dtype
        ctx.set_materialize_grads(False)  # the logits seldom get a gradient, and zeros would be as large as they are
        hidden_states, weight = hidden_states.to(dtype), weight.to(dtype)
        logits = torch.addmm(bias.to(dtype), hidden_states, weight.t())
        probability = torch.empty_like(logits)
        losses, rows = [], 0
        for part, out in zip(_parts(logits), _parts(probability), strict=True):
            here = labels[rows : (rows := rows + len(part)), None]
            exact = part.float()
            softmax = exact.softmax(dim=1)
            # log-sum-exp from the largest logit and its probability, which cannot underflow.
            log_total = exact.amax(dim=1, keepdim=True) - softmax.amax(dim=1, keepdim=True).log()
            losses.append(log_total - exact.gather(1, here))
            out.copy_(softmax.scatter_add_(1, here, torch.full_like(log_total, -1.0)))
        ctx.save_for_backward(hidden_states, weight, probability)
        return torch.cat(losses).sum(), logits

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of hidden states, weight and bias: (softmax - one-hot) through the decoder.

        The gradient of the loss, one number, is multiplied into the small factors and not into the (positions,
        vocab_size) matrix.
        """
        refuse_second_gradient()
        hidden_states, weight, change = ctx.saved_tensors
        of_loss, of_logits = gradients
        # Without labels the mean divides by 0; stock BERT's loss is NaN then, and its gradients are 0.
        scale = torch.zeros(()) if of_loss is None or not len(change) else of_loss
        if of_logits is not None:
            change, scale = change * scale + of_logits, torch.ones(())
        hidden_dtype, weight_dtype = ctx.dtypes
        ones = torch.ones(len(change), dtype=change.dtype)
        return (
            (torch.mm(change, weight) * scale).to(hidden_dtype) if ctx.needs_input_grad[0] else None,
            torch.mm(change.t(), hidden_states * scale).to(weight_dtype) if ctx.needs_input_grad[1] else None,
            (torch.mv(change.t(), ones) * scale).to(weight_dtype) if ctx.needs_input_grad[2] else None,
            None,
        )


def _parts(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of a few rows each, `LOGITS_AT_ONCE` elements at most (one row at least)."""
    return logits.split(max(1, LOGITS_AT_ONCE // logits.shape[1]))


def narrowed(states: torch.Tensor, config: Any, training: bool) -> torch.Tensor:
    """The states in autocast's dtype, in training under autocast on a CPU (section 6); any shape."""
    # CODEPATH: a user's switch, on in every checkpoint of ours.
    if config.use_fast_path and training and states.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return states.to(torch.get_autocast_dtype("cpu"))
    return states


def adds_rows_in_place(embedding: nn.Embedding, decoder: nn.Module | None) -> bool:
    """Whether the gradient of `embedding` may be its rows alone (sparse), to be added to the decoder's dense one.

    That needs a decoder which is the same matrix and is read in the same pass; the optimizer sees a dense sum.
    """
    return (
        decoder is not None
        and decoder.weight is embedding.weight
        and is_plain(embedding, nn.Embedding)
        and embedding.weight.device.type == "cpu"
    )
