# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""Exact fast paths: the same function as stock BERT, to rounding, with less arithmetic and less memory traffic.

Notation: hidden size h, sequence length T, heads H, head size d = h/H, n positions of a text that are read ("queries":
the labelled ones, or [CLS]). `config.use_fast_path` switches all of these off.

path                    conditions                                                               home
reduced last layer      2-d mask; eager or sdpa; no hidden states or attentions asked for        last_layer_is_reducible
absorbed keys, values   reduced; plain `key` and `value`; fewer multiply-adds                    is_absorbed
  text by text          absorbed; labelled positions; a CPU; not compiled                        is_ragged
fused loss              training on labels; a CPU; not compiled; plain decoder; stock loss       loss_is_fusable
16-bit dropout          training; a CPU; not compiled                                            TLMDropout
narrowed states         training under autocast; a CPU (exact to autocast's dtype only)          narrowed

"Plain" means without adapter, quantised weights or hooks (`is_plain`).

Absorbed keys and values: with x_t the layer's input at t, W_k,h and W_v,h the (d, h) blocks of head h, q_h its query,

    score_t   = q_h . (W_k,h x_t + b_k,h)          = (W_k,h^T q_h) . x_t + q_h . b_k,h = u_h . x_t + const
    context_h = sum_t a_t (W_v,h x_t + b_v,h)      = W_v,h (sum_t a_t x_t) + b_v,h sum_t a_t

so two h x h projections of T tokens become nH vectors u_h of size h, and as many pooled inputs. The constant drops
out of the softmax, but gets a gradient (0 to rounding) as stock's does; sum_t a_t is 1 only without attention dropout.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

IGNORE_INDEX = -100
LOGITS_AT_ONCE = 2_000_000  # turned into float32 at a time: 8 MB, which stay in the cache between the passes over them


class Queries(NamedTuple):
    """Where the last layer is read."""

    positions: Tensor  # int64 (batch, n)
    is_query: Tensor | None = None  # bool (batch, n), without the slots that fill up shorter rows; the result is flat

    @classmethod
    def of_labels(cls, labels: Tensor) -> tuple["Queries", Tensor]:
        """The labelled positions of int64 `labels` (batch, sequence), and their labels (count,)."""
        selected = labels != IGNORE_INDEX
        counts = selected.sum(dim=1)
        slots = max(int(counts.max()), 1)
        positions = torch.argsort(selected.to(torch.uint8), dim=1, descending=True, stable=True)[:, :slots]
        return cls(positions, torch.arange(slots, device=selected.device) < counts[:, None]), labels[selected]

    def read(self, states: Tensor) -> Tensor:
        """The rows of (batch, sequence, hidden) at the queries: (batch, n, hidden), or (is_query.sum(), hidden)."""
        if self.is_query is None:
            return states.gather(1, self.positions[..., None].expand(-1, -1, states.shape[-1]))
        starts = torch.arange(states.shape[0], device=states.device)[:, None] * states.shape[1]
        return states.flatten(0, 1).index_select(0, (self.positions + starts)[self.is_query])


def is_bare(module: nn.Module) -> bool:
    """Whether the module has no hooks and no replaced `forward` (Accelerate's offloading)."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" not in module.__dict__ and not any(getattr(module, name) for name in hooks)


def is_plain(module: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether reading the module's weight is calling it: exactly this kind, no adapter, quantised weights or hooks."""
    return type(module) is kind and type(module.weight) in (nn.Parameter, Tensor) and is_bare(module)


def is_absorbed(attention: Any, queries: int, length: int) -> bool:
    """Whether `absorbed_attention` is possible and needs fewer multiply-adds than projecting keys and values."""
    if not (is_plain(attention.key) and is_plain(attention.value)):
        return False
    hidden = attention.key.in_features
    absorbed = queries * hidden * (hidden + hidden // attention.head_size * length)
    return absorbed < length * hidden * (hidden + queries)


def is_ragged(attention: Any, hidden_states: Tensor, queries: Queries) -> bool:
    """Whether keys and values are absorbed text by text: on a CPU, where a small product each costs no more."""
    on_cpu = queries.is_query is not None and hidden_states.device.type == "cpu"
    return on_cpu and is_absorbed(attention, queries.positions.shape[1], hidden_states.shape[1])


def absorbed_attention(
    attention: Any, query_states: Tensor, hidden_states: Tensor, mask: Tensor | None, is_query: Tensor | None = None
) -> Tensor:
    """Attend without projecting keys and values (derived above), before the output projection.

    From the layer's input (batch, n, hidden) where it is read, or (rows, hidden), the true entries of `is_query`, to
    that of all positions (batch, sequence, hidden); the mask (batch, 1, 1, sequence) is as `add_mask` takes it.
    """
    key, value, head_size = attention.key, attention.value, attention.head_size
    query = (attention.query(query_states) * attention.scaling).unflatten(-1, (-1, head_size))
    absorbed = torch.einsum("...hd,hdc->...hc", query, key.weight.unflatten(0, (-1, head_size)))
    if is_query is not None:
        counts = is_query.sum(dim=1)
        sizes = [count * absorbed.shape[-2] for count in counts.tolist()]
        scores = _TextProduct.apply(absorbed.flatten(0, 1), hidden_states, sizes, True).unflatten(0, absorbed.shape[:2])
        mask = None if mask is None else mask[:, 0].repeat_interleave(counts, dim=0)
    else:
        scores = torch.einsum("bnhc,btc->bnht", absorbed, hidden_states)
    if torch.is_grad_enabled() and key.bias is not None and key.bias.requires_grad:
        scores = scores + (query * key.bias.unflatten(0, (-1, head_size))).sum(dim=-1, keepdim=True)
    weights = attention.dropout(add_mask(scores, mask).softmax(dim=-1))
    if is_query is not None:
        pooled = _TextProduct.apply(weights.flatten(0, 1), hidden_states, sizes, False).unflatten(0, absorbed.shape[:2])
    else:
        pooled = torch.einsum("bnht,btc->bnhc", weights, hidden_states.to(weights.dtype))
    context = torch.einsum("...hc,hdc->...hd", pooled, value.weight.unflatten(0, (-1, head_size)))
    if value.bias is not None:
        bias = value.bias.unflatten(0, (-1, head_size))
        dropped = attention.training and attention.dropout.p > 0
        context = context + (weights.sum(dim=-1, keepdim=True) * bias if dropped else bias)
    if mask is not None and mask.dtype == torch.bool:
        context = context * mask.any(dim=-1, keepdim=True)  # of a text that is all padding sdpa makes 0
    return context.flatten(-2)


def add_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Mask scores (..., sequence) by None, a bool mask (True where attended), or one that is added."""
    if mask is None or mask.dtype != torch.bool:
        return scores if mask is None else scores + mask
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


class _TextProduct(torch.autograd.Function):
    """Each text's own rows times its matrix, without padding texts of fewer rows.

    rows (all, k), matrices (batch, sequence, hidden), sizes (rows of each text): rows_b @ matrix_b^T (all, sequence)
    where `transposed` and k = hidden, else rows_b @ matrix_b (all, hidden) with k = sequence.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrices: Tensor, sizes: list[int], transposed: bool) -> Tensor:
        dtype = _autocast_dtype(rows.dtype)
        ctx.dtypes, ctx.sizes, ctx.transposed = (rows.dtype, matrices.dtype), sizes, transposed
        rows, matrices = rows.to(dtype), matrices.to(dtype)
        ctx.save_for_backward(rows, matrices)
        product = rows.new_empty(rows.shape[0], matrices.shape[1 if transposed else 2])
        for out, part, matrix in zip(product.split(sizes), rows.split(sizes), matrices, strict=True):
            torch.mm(part, matrix.t() if transposed else matrix, out=out)
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        _refuse_second_gradient()
        rows, matrices = ctx.saved_tensors
        of_rows, of_matrices = torch.empty_like(rows), torch.empty_like(matrices)
        flat = [tensor.split(ctx.sizes) for tensor in (gradient.to(rows.dtype), rows, of_rows)]
        for change, part, of_part, matrix, of_matrix in zip(*flat, matrices, of_matrices, strict=True):
            torch.mm(change, matrix if ctx.transposed else matrix.t(), out=of_part)
            left, right = (change, part) if ctx.transposed else (part, change)
            torch.mm(left.t(), right, out=of_matrix)
        return of_rows.to(ctx.dtypes[0]), of_matrices.to(ctx.dtypes[1]), None, None


def _autocast_dtype(otherwise: torch.dtype) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else otherwise


def _refuse_second_gradient() -> None:
    if torch.is_grad_enabled():  # in a backward pass; torch's `once_differentiable` would not see it
        raise NotImplementedError("The fast paths have no second gradient: set config.use_fast_path = False.")


class TLMDropout(nn.Dropout):
    """`nn.Dropout`; in training on a CPU with 16 random bits an element, where torch draws a number for each."""

    def __init__(self, probability: float, config: Any) -> None:
        super().__init__(probability)
        self.config = config

    def forward(self, states: Tensor) -> Tensor:
        on_cpu = states.device.type == "cpu" and not torch.compiler.is_compiling()
        dropped = round(self.p * 65536)  # the scale is the rounded probability's, so the expectation is exact
        # CODEPATH: a user's switch, on in every checkpoint of ours; both sides are equal to rounding.
        if not (self.config.use_fast_path and on_cpu and self.training and 0 < dropped < 65536):
            return super().forward(states)
        words = torch.empty((states.numel() + 3) // 4, dtype=torch.int64, device=states.device)
        bits = words.random_(-(2**63), None).view(torch.int16)[: states.numel()].view(states.shape)
        # The mask in the states' own type: a product with bool would convert it in both passes.
        return states * (bits >= dropped - 32768).to(states.dtype).mul_(65536 / (65536 - dropped))


class MaskedLMLoss(torch.autograd.Function):
    """Decoder and summed cross-entropy; float32 sums over logits of any dtype."""

    @staticmethod
    def forward(ctx: Any, hidden_states: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """States (positions, hidden) and token ids (positions,) to the summed loss in nats, and the logits."""
        dtype = _autocast_dtype(weight.dtype)
        ctx.dtypes = hidden_states.dtype, weight.dtype
        ctx.set_materialize_grads(False)  # the logits seldom get a gradient, and zeros would be as large as they are
        hidden_states, weight = hidden_states.to(dtype), weight.to(dtype)
        logits = torch.addmm(bias.to(dtype), hidden_states, weight.t())
        probability = torch.empty_like(logits)
        rows = max(1, LOGITS_AT_ONCE // logits.shape[1])
        losses = []
        pieces = (logits.split(rows), probability.split(rows), labels[:, None].split(rows))
        for part, out, targets in zip(*pieces, strict=True):
            exact = part.float()
            softmax = exact.softmax(dim=1)
            # log-sum-exp from the largest logit and its probability, which cannot underflow.
            log_total = exact.amax(dim=1, keepdim=True) - softmax.amax(dim=1, keepdim=True).log()
            losses.append(log_total - exact.gather(1, targets))
            out.copy_(softmax.scatter_add_(1, targets, torch.full_like(log_total, -1.0)))
        ctx.save_for_backward(hidden_states, weight, probability)
        return torch.cat(losses).sum(), logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of hidden states, weight and bias: (softmax - one-hot) through the decoder."""
        _refuse_second_gradient()
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


def loss_is_fusable(head: Any) -> bool:
    """Whether `MaskedLMLoss` may replace decoder and cross-entropy of a `BertOnlyMLMHead`."""
    decoder = head.predictions.decoder
    plain = is_bare(head) and is_bare(head.predictions) and is_plain(decoder) and decoder.bias is not None
    return plain and torch.is_grad_enabled() and decoder.weight.device.type == "cpu"


def narrowed(states: Tensor, config: Any, training: bool) -> Tensor:
    """The states in autocast's dtype, in training under autocast on a CPU; any shape."""
    # CODEPATH: a user's switch, on in every checkpoint of ours.
    narrow = config.use_fast_path and training and states.device.type == "cpu"
    return states.to(_autocast_dtype(states.dtype)) if narrow else states
