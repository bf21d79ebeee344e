"""What new weights start from: word rows from counts of the corpus, and heads that attend to neighbours.

Both change values only; the model stays a stock BERT. Related: Trockman and Kolter, "Mimetic initialization of
self-attention layers" (ICML 2023).
"""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from ..models.modeling_tlm import TLMForMaskedLM

LENGTHS = (0.3, 2.0)
"""Shortest and longest word row, over their mean: rare tokens have short rows, and LayerNorm needs some length."""
NOISE = 0.32
"""Noise added to the word rows, over the standard deviation of new weights."""
SHARPNESS = 16.0
"""A head's score of the neighbour that it starts from, other positions having about 0: measured as uncritical."""
RANDOM_SHARE = 0.3
"""Share of their usual random weights that the heads keep."""


@torch.no_grad()
def start_from_counts(model: TLMForMaskedLM, rows: np.ndarray) -> None:
    """Put word rows into the embeddings, as long as new ones are and with a little noise from torch's generator.

    Args:
        model: a new model, whose decoder is tied to its word embeddings.
        rows: float32 (vocabulary, hidden), as `data.counts.count_rows` gives them; tokens whose row is 0 keep theirs.
    """
    words = model.bert.embeddings.word_embeddings.weight
    deviation = model.config.initializer_range
    directions = torch.from_numpy(rows).to(words)
    lengths = directions.norm(dim=1, keepdim=True)
    is_known = lengths[:, 0] > 0
    directions, lengths = directions[is_known], lengths[is_known]
    relative = (lengths / lengths.mean()).clamp(*LENGTHS)
    noise = NOISE * deviation * torch.randn_like(directions)
    words[is_known] = directions / lengths * relative * deviation * math.sqrt(rows.shape[1]) + noise


@torch.no_grad()
def start_with_neighbours(model: TLMForMaskedLM) -> None:
    """Let the heads of the first layer attend to the tokens at offsets -1, +1, -2, +2, ... at the start.

    Positions get the features of `position_features` in an orthonormal basis (hidden, head size) of their own, and
    each head's keys read them; its queries read them turned by the head's offset. [CLS] has none, so that it does not
    start as a neighbour of the first words. A convolution mixes positions before the heads see them: an encoder with
    one is left as it is, and so is one whose head size is odd.
    """
    config = model.config
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = hidden // heads
    if config.has_convolution or size % 2:
        return
    basis, _ = torch.linalg.qr(torch.randn(hidden, size))
    positions = model.bert.embeddings.position_embeddings.weight
    length = config.initializer_range * math.sqrt(hidden)  # that of a word row
    positions.copy_(length * position_features(len(positions), size) @ basis.T)
    positions[0] = 0
    # Words and positions share what LayerNorm makes of length sqrt(hidden), so a position has sqrt(hidden / 2).
    scale = math.sqrt(SHARPNESS * math.sqrt(size) * 2 / hidden)
    first_layer: Any = model.bert.encoder.layer[0]
    attention = first_layer.attention.self
    for head, (query, key) in enumerate(
        zip(_by_head(attention.query, size), _by_head(attention.key, size), strict=True)
    ):
        offset = (head // 2 + 1) * (1 if head % 2 else -1)
        query.copy_(scale * rotation(offset, size) @ basis.T + RANDOM_SHARE * query)
        key.copy_(scale * basis.T + RANDOM_SHARE * key)


def _by_head(linear: nn.Linear, size: int) -> torch.Tensor:
    """View of a projection's weights: (heads, head size, hidden)."""
    return linear.weight.view(-1, size, linear.in_features)


def frequencies(size: int) -> torch.Tensor:
    """Odd harmonics 2 pi (2j + 1) / (2 size), j < size / 2: float32 (size / 2,)."""
    return 2 * math.pi * (2 * torch.arange(size // 2) + 1) / (2 * size)


def position_features(count: int, size: int) -> torch.Tensor:
    """Features f(t) of positions t < count: float32 (count, size), size even.

    f(s) f(t) is 1 for s = t and 0 for 0 < |s - t| < size; at a distance of size it is -1.
    """
    angles = torch.arange(count)[:, None] * frequencies(size)
    return torch.cat([angles.cos(), angles.sin()], dim=1) / math.sqrt(size // 2)


def rotation(offset: int, size: int) -> torch.Tensor:
    """R with R f(t) = f(t + offset) for all t: float32 (size, size)."""
    angles = frequencies(size) * offset
    cosine, sine = torch.diag(angles.cos()), torch.diag(angles.sin())
    return torch.cat([torch.cat([cosine, -sine], dim=1), torch.cat([sine, cosine], dim=1)], dim=0)
