# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""Convolution front-end of the paper's variants (arXiv 2507.14871), right under padding and in several processes.

The embedding output (batch, sequence, hidden) is treated as a one-channel picture (batch, 1, sequence, hidden).
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn

from .configuration_tlm import TLMConfig


def pad_inputs(config: TLMConfig, word_embeddings: nn.Module, inputs: tuple) -> tuple:
    """Pad ids, token types, positions and embeddings (each or None) on the right to `max_position_embeddings`.

    Ids continue with the pad token (embeddings with its vector), token types with 0, positions with their numbers.
    """
    input_ids, token_type_ids, position_ids, inputs_embeds = inputs
    tokens: Any = input_ids if inputs_embeds is None else inputs_embeds
    batch, length, longest = tokens.shape[0], tokens.shape[1], config.max_position_embeddings
    # Always `longest` more, then cut: torch.export would hold on to how many (longest - length) there were.
    pad_ids = torch.full((batch, longest), config.pad_token_id or 0, dtype=torch.long, device=tokens.device)

    def extend(values: Tensor | None, added: Tensor) -> Tensor | None:
        return None if values is None else torch.cat([values, added], dim=1)[:, :longest]

    input_ids = extend(input_ids, pad_ids)
    if inputs_embeds is not None:
        inputs_embeds = extend(inputs_embeds, word_embeddings(pad_ids).to(inputs_embeds.dtype))
    if token_type_ids is not None:
        token_type_ids = extend(token_type_ids, token_type_ids.new_zeros((token_type_ids.shape[0], longest)))
    if position_ids is not None:
        added = torch.arange(length, length + longest, device=position_ids.device).expand(position_ids.shape[0], -1)
        position_ids = extend(position_ids, added)
    return input_ids, token_type_ids, position_ids, inputs_embeds


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics leave padding out and cover the batches of all processes.

    Count, sum and centred squares, in float32 at least, and their gradients are summed over the default process group
    (torch's SyncBatchNorm is for GPUs only), so every process must run the same training passes. Where each trains
    another model, set `synchronise` to False.
    """

    synchronise: bool = True

    # Never None here, as nn.BatchNorm2d's own types allow.
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise (batch, channels, sequence, hidden); `mask` (batch, 1, sequence, 1) is 1 for tokens."""
        grouped = distributed.is_available() and distributed.is_initialized()
        across = self.training and self.synchronise and grouped and distributed.get_world_size() > 1
        if not self.training or (mask is None and not across):
            return super().forward(states)
        values = states.to(torch.promote_types(states.dtype, torch.float32))
        if mask is None:
            mask = values.new_ones((states.shape[0], 1, states.shape[2], 1))
        mask = mask.to(values.dtype)
        totals = torch.cat([(values * mask).sum(dim=(0, 2, 3)), mask.sum()[None]])
        if across:  # gradients are summed too
            from torch.distributed.nn.functional import all_reduce  # not in builds without torch.distributed

            totals = all_reduce(totals)
        count = (totals[-1] * states.shape[-1]).clamp(min=1)
        mean = totals[:-1] / count
        centred = (values - mean[:, None, None]) * mask
        squares = centred.square().sum(dim=(0, 2, 3))
        if across:
            squares = all_reduce(squares)
        variance = squares / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            unbiased = variance * (count / (count - 1).clamp(min=1))
            for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.copy_(running.to(new.dtype).lerp(new, self.momentum))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(states.dtype)


class TLMConvolution(nn.Module):
    """One convolution, its normalisation and GELU; padding is zeroed first, so that it never reaches a token."""

    def __init__(self, inputs: int, outputs: int, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        # "same" as torch means it (an even kernel gets its odd zero at the end), without torch's copy and its warning.
        padding = ((kernel_size[0] - 1) // 2, (kernel_size[1] - 1) // 2)
        self.convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=padding)
        self.odd_zeros = (0, (kernel_size[1] - 1) % 2, 0, (kernel_size[0] - 1) % 2)
        self.batch_norm = MaskedBatchNorm2d(outputs)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, inputs, sequence, hidden) to (batch, outputs, sequence, hidden)."""
        if mask is not None:
            states = states * mask.to(states.dtype)
        if any(self.odd_zeros):
            states = nn.functional.pad(states, self.odd_zeros)
        return nn.functional.gelu(self.batch_norm(self.convolution(states), mask))


class TLMConvolutionFrontEnd(nn.Module):
    """The whole front-end: `conv_kernel_sizes` layers of `conv_channels`, then 1x1 back to one channel."""

    def __init__(self, config: TLMConfig) -> None:
        super().__init__()
        self.sees_padding = config.conv_sees_padding
        kernels = config.conv_kernel_sizes or []
        channels = [1] + [config.conv_channels or 1] * len(kernels)
        self.layers = nn.ModuleList(
            TLMConvolution(inputs, outputs, (kernel[0], kernel[1]))
            for inputs, outputs, kernel in zip(channels[:-1], channels[1:], kernels, strict=True)
        )
        self.projection = TLMConvolution(channels[-1], 1, (1, 1))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The embedding output (batch, sequence, hidden) to the same shape; the mask must be 2-d."""
        mask = None
        if attention_mask is not None and not self.sees_padding:
            if attention_mask.dim() != 2:
                raise ValueError("A convolution front-end takes a 2-d attention_mask (batch, sequence).")
            mask = attention_mask[:, None, :, None].to(hidden_states.dtype)
        states = hidden_states[:, None]
        for layer in self.layers:
            states = layer(states, mask)
        return self.projection(states, mask)[:, 0]
