"""Convolution front-end of the paper's variants, correct under padding.

This file travels to the Hub as remote code; it needs torch only. The embedding output (batch, sequence, hidden) is
treated as a one-channel picture (batch, 1, sequence, hidden): n times [Conv2d "same", BatchNorm2d, GELU], then a 1x1
Conv2d back to one channel, BatchNorm2d, GELU (arXiv 2507.14871).
"""

import torch
from torch import nn

from .configuration_tlm import TLMConfig


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics leave padding out; weights and buffers are `nn.BatchNorm2d`'s."""

    # Never None with the defaults that are used here (affine, tracked); nn.BatchNorm2d's own types allow for it.
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise (batch, channels, sequence, hidden); `mask` (batch, 1, sequence, 1) is 1 for tokens, 0 for padding.

        In training mean and variance are taken over token positions alone and folded into the running statistics; in
        evaluation the running statistics are used, so no text depends on its neighbours.
        """
        if mask is None or not self.training:
            return super().forward(states)
        count = mask.sum() * states.shape[-1]
        mean = (states * mask).sum(dim=(0, 2, 3)) / count
        centred = (states - mean[:, None, None]) * mask
        variance = centred.square().sum(dim=(0, 2, 3)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]


class TLMConvolution(nn.Module):
    """One convolution, its normalisation and GELU; padding is zeroed first, so that it never reaches a token."""

    def __init__(self, inputs: int, outputs: int, kernel_size: tuple[int, int]) -> None:
        super().__init__()
        # "same" as torch means it (an even kernel gets its odd zero at the end), without torch's copy and its warning.
        padding = ((kernel_size[0] - 1) // 2, (kernel_size[1] - 1) // 2)
        self.convolution = nn.Conv2d(inputs, outputs, kernel_size, padding=padding)
        self.odd_zeros = (0, (kernel_size[1] - 1) % 2, 0, (kernel_size[0] - 1) % 2)
        self.batch_norm = MaskedBatchNorm2d(outputs)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, inputs, sequence, hidden) to (batch, outputs, sequence, hidden)."""
        if mask is not None:
            states = states * mask
        if any(self.odd_zeros):
            states = nn.functional.pad(states, self.odd_zeros)
        return nn.functional.gelu(self.batch_norm(self.convolution(states), mask))


class TLMConvolutionFrontEnd(nn.Module):
    """The whole front-end: `conv_kernel_sizes` layers of `conv_channels`, then 1x1 back to one channel."""

    def __init__(self, config: TLMConfig) -> None:
        super().__init__()
        kernels = config.conv_kernel_sizes or []
        channels = [1] + [config.conv_channels or 1] * len(kernels)
        self.layers = nn.ModuleList(
            TLMConvolution(inputs, outputs, (kernel[0], kernel[1]))
            for inputs, outputs, kernel in zip(channels[:-1], channels[1:], kernels, strict=True)
        )
        self.projection = TLMConvolution(channels[-1], 1, (1, 1))

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """(batch, sequence, hidden) to the same shape; `attention_mask` None or (batch, sequence).

        Raises:
            ValueError: when the mask is not 2-d, since padding could then not be told from text.
        """
        mask = None
        if attention_mask is not None:
            if attention_mask.dim() != 2:
                raise ValueError("A convolution front-end takes a 2-d attention_mask (batch, sequence).")
            mask = attention_mask[:, None, :, None].to(hidden_states.dtype)
        states = hidden_states[:, None]
        for layer in self.layers:
            states = layer(states, mask)
        return self.projection(states, mask)[:, 0]
