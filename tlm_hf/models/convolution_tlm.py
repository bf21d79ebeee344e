# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""Convolution front-end of the paper (arXiv 2507.14871): (batch, sequence, hidden) is a one-channel picture."""

from typing import Any

import torch
from torch import Tensor, distributed, nn

from .configuration_tlm import TLMConfig


def pad_inputs(config: TLMConfig, word_embeddings: nn.Module, inputs: tuple) -> tuple:
    """Pad ids, token types, positions and embeddings (each or None) on the right to `max_position_embeddings`."""
    input_ids, _, _, inputs_embeds = inputs
    tokens = input_ids if inputs_embeds is None else inputs_embeds
    (batch, length), longest = tokens.shape[:2], config.max_position_embeddings
    # Always `longest` more, then cut: torch.export would hold on to how many (longest - length) there were.
    pad_ids = torch.full((batch, longest), config.pad_token_id or 0, dtype=torch.long, device=tokens.device)
    numbers = torch.arange(length, length + longest, device=tokens.device)[None]
    vectors = None if inputs_embeds is None else word_embeddings(pad_ids)
    padded = []
    for values, added in zip(inputs, (pad_ids, torch.zeros_like(numbers), numbers, vectors), strict=True):
        if values is not None and added is not None:
            added = added.expand(values.shape[0], *added.shape[1:]).to(values.dtype)
            values = torch.cat([values, added], dim=1)[:, :longest]
        padded.append(values)
    return tuple(padded)


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics leave padding out and cover the batches of all processes.

    Count, sum and centred squares, in float32 at least, and their gradients are summed over the default process group
    (torch's SyncBatchNorm is for GPUs only), so every process must run the same training passes. Where each trains
    another model, set `synchronise` to False.
    """

    synchronise: bool = True

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise (batch, channels, sequence, hidden); `mask` (batch, 1, sequence, 1) is 1 for tokens."""
        grouped = distributed.is_available() and distributed.is_initialized()
        across = self.training and self.synchronise and grouped and distributed.get_world_size() > 1
        if not self.training or (mask is None and not across):
            return super().forward(states)

        def total(values: Tensor) -> Tensor:
            if not across:
                return values
            from torch.distributed.nn.functional import all_reduce  # not in builds without torch.distributed

            return all_reduce(values)  # sums gradients too

        values = states.to(torch.promote_types(states.dtype, torch.float32))
        mask = values.new_ones((states.shape[0], 1, states.shape[2], 1)) if mask is None else mask.to(values.dtype)
        totals = total(torch.cat([(values * mask).sum(dim=(0, 2, 3)), mask.sum()[None]]))
        count = (totals[-1] * states.shape[-1]).clamp(min=1)
        mean = totals[:-1] / count
        centred = (values - mean[:, None, None]) * mask
        variance = total(centred.square().sum(dim=(0, 2, 3))) / count
        buffers: Any = self  # which are never None here, as nn.BatchNorm2d's types allow
        with torch.no_grad():
            buffers.num_batches_tracked.add_(1)
            unbiased = variance * (count / (count - 1).clamp(min=1))
            for running, new in ((buffers.running_mean, mean), (buffers.running_var, unbiased)):
                running.copy_(running.to(new.dtype).lerp(new, buffers.momentum))
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
        kernels, channels = config.conv_kernel_sizes or [], config.conv_channels or 1
        self.layers = nn.ModuleList(
            TLMConvolution(channels if place else 1, channels, (sequence, hidden))
            for place, (sequence, hidden) in enumerate(kernels)
        )
        self.projection = TLMConvolution(channels, 1, (1, 1))

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
