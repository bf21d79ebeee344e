# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""What tokens, pairs and words of a text say of its class: a linear model as a table, added to each member's logits.

For a text of tokens v_1 ... v_T, c_t of them v_t, and words of several tokens W:

    logits = (sum_t w_t R[v_t] + sum_t R[V + pair(v_t, v_t+1)] + sum_W R[V + B + word(W)]) / norm + bias
    w_t = (1 + log c_t) / c_t        norm = sqrt(sum_t w_t^2 c_t idf[v_t]^2), at least 1

so R, of V tokens and twice B buckets, holds a linear model on TF-IDF (sublinear, unit length); `idf` is 0 for special
tokens, `continues` 1 for tokens that continue a word (##).
"""

from typing import Any

import torch
from torch import Tensor, nn

MULTIPLIER, PRIME = 40503, 65537  # of the hashes of pairs and words


def hash_pairs(ids: Any, buckets: int) -> Any:
    """Buckets (..., tokens - 1) of neighbouring tokens, from integer ids (..., tokens) of torch or numpy."""
    return (ids[..., :-1] * MULTIPLIER + ids[..., 1:]) % buckets


def hash_words(ids: Tensor, continues: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
    """Buckets of the words that tokens belong to, and where one of several tokens starts; all (batch, sequence)."""
    continues = continues.long()  # in half precision sums beyond 256 are not exact
    word = (1 - continues).cumsum(dim=1)  # its number in the text, from 0 or 1
    of_words = ids.new_zeros(len(ids), ids.shape[1] + 1).scatter_add(1, word, ids * ids * MULTIPLIER % PRIME)
    hashes = of_words.gather(1, word) % buckets
    following = nn.functional.pad(continues[:, 1:], (0, 1))
    return hashes, (1 - continues) * following


def first_tokens(
    longest: int, ids: Tensor, mask: Tensor | None, types: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What members read of texts that the table reads whole: at most `longest` tokens, the last one as the text has it.

    Ids, mask and types are (batch, sequence). Raises ValueError for a cut text that is padded on the left, or a pair.
    """
    length, is_traced = ids.shape[1], torch.compiler.is_compiling()
    if length <= longest and not is_traced:
        return ids, mask, types
    present = torch.ones_like(ids) if mask is None else mask
    columns = torch.arange(length, device=ids.device)
    last = ((present != 0) * columns).amax(dim=1, keepdim=True)  # the place of [SEP]
    if not is_traced and bool(((last >= longest) & (present[:, :1] == 0)).any()):
        raise ValueError(f"Texts of more than {longest} tokens must be padded on the right.")
    if not is_traced and types is not None and bool(types.any()):
        remedy = f"truncate them (tokenizer(..., truncation=True, max_length={longest}))"
        raise ValueError(f"Pairs of texts have at most {longest} tokens here, not {length}: {remedy}.")
    size = torch.sym_min(length, longest)  # a number in eager mode
    is_end = (columns[:size] == longest - 1) & (last >= longest)
    first = torch.where(is_end, ids.gather(1, last), ids[:, :size])
    return first, present[:, :size], None if types is None else types[:, :size]


class LexicalTable(nn.Module):
    """The table, in buffers: parameters that `from_pretrained` makes are trained, whatever they were when saved."""

    weight: Tensor
    idf: Tensor
    continues: Tensor
    bias: Tensor

    def __init__(self, words: int, buckets: int, num_labels: int) -> None:
        super().__init__()
        shapes = {"weight": (words + 2 * buckets, num_labels), "idf": (words,), "continues": (words,)}
        for name, shape in {**shapes, "bias": (num_labels,)}.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Ids and mask (batch, sequence) to float32 (batch, num_labels)."""
        present = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        input_ids, words, present = input_ids.long(), len(self.idf), present.to(self.bias.dtype)  # hashes need 64 bits
        of_tokens = present.new_zeros(len(present), words).scatter_add(1, input_ids, present)
        counts = of_tokens.gather(1, input_ids).clamp(min=1)
        shares = present * (1 + counts.log()) / counts
        norm = (shares.square() * counts * self.idf[input_ids].square()).sum(dim=1, keepdim=True).sqrt()
        buckets = (len(self.weight) - words) // 2
        pairs = words + hash_pairs(input_ids, buckets)
        of_word, starts = hash_words(input_ids, self.continues[input_ids], buckets)
        sums = torch.einsum("bt,btc->bc", shares, self.weight[input_ids])
        sums = sums + torch.einsum("bt,btc->bc", present[:, 1:], self.weight[pairs])
        sums = sums + torch.einsum("bt,btc->bc", present * starts, self.weight[words + buckets + of_word])
        return (sums / norm.clamp(min=1) + self.bias).float()
