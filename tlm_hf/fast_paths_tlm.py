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
   reduced last layer, and `key` and `value` plain `nn.Linear` (not a LoRA or quantised layer, no hooks on them).

3. Constant query. In a one-layer encoder without convolution the input at [CLS] is LayerNorm(word[CLS] + position[0] +
   type[0]): the same row for every text that starts alike, unless embedding dropout differs by text. Then one query,
   and one u_h, serve the batch. Conditions: reduced to the first position, one layer, no convolution, no embedding
   dropout (evaluation, or probability 0), ids, positions and types of the first column all equal
   (`starts_are_equal`), CPU. It reads the data, so it is left out under torch.compile and torch.export.

4. `sixteen_bit_dropout`. torch draws one 32-bit number and a float per element on a CPU, which took longer than the
   matrix products around it; here 16 bits decide, four elements a draw. The probability is rounded to 1/65536 and the
   scale is the rounded probability's, so the expectation is exact.

5. `MaskedLMLoss`. Decoder and cross-entropy as one function that keeps the logits once, and the gradient of the tied
   word embedding as decoder part plus the rows that were read, without a second (V, h) matrix.
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
        shared: the layer's input at `positions` is the same row for every text (constant query, n = 1).
    """

    positions: torch.Tensor
    is_query: torch.Tensor | None = None
    shared: bool = False


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
    is_query = torch.arange(queries, device=selected.device) < counts[:, None]
    return positions, is_query


def starts_are_equal(*inputs: torch.Tensor | None) -> bool:
    """Whether ids, positions and types, each (batch or 1, sequence) or None, are equal for all texts at position 0.

    False where reading them would cost a transfer (an accelerator) or a branch in a graph (compile, export, trace).
    """
    given = [values[:, 0] for values in inputs if values is not None]
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or any(column.device.type != "cpu" for column in given):
        return False
    return all(bool((column == column[0]).all()) for column in given)


def is_plain_linear(module: nn.Module) -> bool:
    """Whether the module is exactly `nn.Linear` on plain weights, so that reading its weight is calling it."""
    return (
        type(module) is nn.Linear
        and type(module.weight) in (nn.Parameter, torch.Tensor)
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    )


def is_absorbed(attention: Any, queries: int, length: int) -> bool:
    """Whether `absorbed_attention` is possible and needs fewer multiply-adds than projecting keys and values.

    Args:
        attention: a `TLMSelfAttention`.
        queries: n, positions read of each text.
        length: T, positions of each text.
    """
    hidden = attention.key.in_features if isinstance(attention.key, nn.Linear) else 0
    heads = hidden // attention.head_size
    absorbed = 2 * queries * hidden * hidden + 2 * queries * heads * length * hidden
    projected = 2 * length * hidden * hidden + 2 * queries * length * hidden
    return absorbed < projected and is_plain_linear(attention.key) and is_plain_linear(attention.value)


def absorbed_attention(
    attention: Any, query_states: torch.Tensor, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Attend without projecting keys and values (section 2 of this file's head).

    Args:
        attention: a `TLMSelfAttention` with plain `key` and `value`.
        query_states: (batch, n, hidden), the layer's input where it is read; (1, n, hidden) for a constant query.
        hidden_states: (batch, sequence, hidden), the layer's input.
        attention_mask: None, or (batch, 1, 1, sequence): bool (True where attended) or added to the scores.

    Returns:
        (batch, n, hidden): the heads' contexts side by side, before the output projection.
    """
    key, value, head_size = attention.key, attention.value, attention.head_size
    query = (attention.query(query_states) * attention.scaling).unflatten(-1, (-1, head_size))
    absorbed = torch.einsum("bnhd,hdc->bnhc", query, key.weight.unflatten(0, (-1, head_size)))
    if absorbed.shape[0] < hidden_states.shape[0]:
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
    pooled = torch.einsum("bnht,btc->bnhc", weights, hidden_states.to(weights.dtype))
    context = torch.einsum("bnhc,hdc->bnhd", pooled, value.weight.unflatten(0, (-1, head_size)))
    if value.bias is not None:
        bias = value.bias.unflatten(0, (-1, head_size))
        dropped = attention.training and attention.dropout.p > 0
        context = context + (weights.sum(dim=-1, keepdim=True) * bias if dropped else bias)
    return context.flatten(2)


def dropout(states: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Zero elements with `probability` in training and scale the rest up; on a CPU by `sixteen_bit_dropout`."""
    if training and 0 < probability < 1 and states.device.type == "cpu" and not torch.compiler.is_compiling():
        return sixteen_bit_dropout(states, probability)
    return nn.functional.dropout(states, probability, training)


def sixteen_bit_dropout(states: torch.Tensor, probability: float) -> torch.Tensor:
    """Dropout decided by 16 random bits an element, from torch's generator (section 4 of this file's head)."""
    dropped = round(probability * 65536)
    words = torch.empty((states.numel() + 3) // 4, dtype=torch.int64, device=states.device)
    bits = words.random_(-(2**63), None).view(torch.int16)[: states.numel()].view(states.shape)
    return _MaskAndScale.apply(states, bits >= dropped - 32768, 65536 / (65536 - dropped))


class _MaskAndScale(torch.autograd.Function):
    """states * mask * scale, keeping the mask as bool (a quarter of what autograd would keep)."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (states * mask).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        (mask,) = ctx.saved_tensors
        return gradient * mask * ctx.scale, None, None


class TLMDropout(nn.Dropout):
    """`nn.Dropout` by `dropout` above, or torch's own with `config.use_fast_path = False`."""

    def __init__(self, probability: float, config: Any) -> None:
        super().__init__(probability)
        self.config = config

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Any shape to the same shape."""
        return dropout(states, self.p, self.training) if self.config.use_fast_path else super().forward(states)


def loss_is_fused(decoder: nn.Module) -> bool:
    """Whether `MaskedLMLoss` may stand in for decoder and cross-entropy: CPU, plain decoder, gradients wanted."""
    return (
        is_plain_linear(decoder)
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
        log_total = torch.cat([part.float().logsumexp(dim=1) for part in _parts(logits)])
        loss = (log_total - logits.gather(1, labels[:, None])[:, 0].float()).sum()
        ctx.save_for_backward(hidden_states, weight, labels, logits, log_total)
        return loss, logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        """Gradients of hidden states, weight and bias: (softmax - one-hot) through the decoder."""
        hidden_states, weight, labels, logits, log_total = ctx.saved_tensors
        of_loss, of_logits = gradients
        change = torch.empty_like(logits)
        bias_gradient = torch.zeros(logits.shape[1])
        rows = 0
        for part, out in zip(_parts(logits), _parts(change), strict=True):
            here = slice(rows, rows := rows + len(part))
            probability = part.float().sub_(log_total[here, None]).exp_()
            probability[torch.arange(len(part)), labels[here]] -= 1
            probability *= 0.0 if of_loss is None else of_loss
            if of_logits is not None:
                probability += of_logits[here]
            bias_gradient += probability.sum(dim=0)
            out.copy_(probability)
        hidden_dtype, weight_dtype = ctx.dtypes
        return (
            torch.mm(change, weight).to(hidden_dtype) if ctx.needs_input_grad[0] else None,
            torch.mm(change.t(), hidden_states).to(weight_dtype) if ctx.needs_input_grad[1] else None,
            bias_gradient.to(weight_dtype) if ctx.needs_input_grad[2] else None,
            None,
        )


def _parts(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of a few rows each, `LOGITS_AT_ONCE` elements at most (one row at least)."""
    return logits.split(max(1, LOGITS_AT_ONCE // logits.shape[1]))


def adds_rows_in_place(embedding: nn.Embedding, decoder: nn.Module | None) -> bool:
    """Whether the gradient of `embedding` may be its rows alone (sparse), to be added to the decoder's dense one.

    That needs a decoder which is the same matrix and is read in the same pass; the optimizer sees a dense sum.
    """
    return (
        decoder is not None
        and decoder.weight is embedding.weight
        and type(embedding) is nn.Embedding
        and embedding.weight.device.type == "cpu"
        and not (embedding._forward_hooks or embedding._forward_pre_hooks)
    )
