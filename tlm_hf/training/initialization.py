"""Writes starting values into a new model, which stays a stock BERT: word rows, heads, [CLS] or classifier.

Related: Trockman and Kolter, "Mimetic initialization of self-attention layers" (ICML 2023); Arora et al., "A simple but
tough-to-beat baseline for sentence embeddings" (ICLR 2017); Kumar et al., "Fine-tuning can distort ..." (ICLR 2022).
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification, TLMModel

LENGTHS = (0.3, 2.0)  # shortest and longest word row, over their mean: LayerNorm needs some length
NOISE = 0.32  # added to the word rows, over the standard deviation of new weights
SHARPNESS = 16.0  # a head's score of the neighbour that it starts from, others having about 0: measured as uncritical
RANDOM_SHARE = 0.3  # of their usual random weights that the heads and the decoder's transform keep
WEAK = 0.1  # the same for heads that attend to all tokens alike
LINEAR = 3.0  # bias at which GELU passes on states of deviation 1; the LayerNorm after it takes the bias away
RARE = 1e-3  # frequency at which a token has half of the largest weight in a mean of words (Arora et al.)
CONTRAST = 4.0  # standard deviation of the mean of words where it is added to [CLS], whose own entries have 1
POOLED = 0.5  # what the pooler multiplies [CLS] by before its tanh, where the classifier starts as a linear model
BATCH = 64
RIDGE = 10.0  # regularisation of a regression's linear start


@torch.no_grad()
def start_from_counts(model: TLMForMaskedLM, rows: np.ndarray) -> None:
    """Put float32 `rows` (vocabulary, hidden) into word rows, as long as new ones and with noise; those of 0 stay."""
    words, deviation = model.bert.embeddings.word_embeddings.weight, model.config.initializer_range
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

    Positions get `position_features` in an orthonormal basis (hidden, head size); keys read them, queries read them
    turned by the head's offset; [CLS] has none. Values and the decoder's transform pass words on, so that they are
    predicted by their neighbours' rows. An encoder with a convolution or an odd head size stays as it is.
    """
    hidden, heads = model.config.hidden_size, model.config.num_attention_heads
    size = hidden // heads
    if model.config.has_convolution or size % 2:
        return
    basis, _ = torch.linalg.qr(torch.randn(hidden, size))
    positions = model.bert.embeddings.position_embeddings.weight
    length = model.config.initializer_range * math.sqrt(hidden)  # that of a word row
    positions.copy_(length * position_features(len(positions), size) @ basis.T)
    positions[0] = 0
    # Words and positions share what LayerNorm makes of length sqrt(hidden), so a position has sqrt(hidden / 2).
    scale = math.sqrt(SHARPNESS * math.sqrt(size) * 2 / hidden)
    attention: Any = model.bert.encoder.layer[0].attention
    pairs = zip(_by_head(attention.self.query, size), _by_head(attention.self.key, size), strict=True)
    for head, (query, key) in enumerate(pairs):
        offset = (head // 2 + 1) * (1 if head % 2 else -1)
        query.copy_(scale * rotation(offset, size) @ basis.T + RANDOM_SHARE * query)
        key.copy_(scale * basis.T + RANDOM_SHARE * key)
    identity = torch.eye(hidden)
    by_head = identity.view(size, heads, hidden).transpose(0, 1).reshape(hidden, hidden)  # head i: i, i + heads, ...
    transform = model.cls.predictions.transform.dense
    for linear, start in (attention.self.value, by_head), (attention.output.dense, by_head.T), (transform, identity):
        linear.weight.copy_(start + RANDOM_SHARE * linear.weight)
    transform.bias.fill_(LINEAR)


@torch.no_grad()
def start_as_mean_of_words(model: TLMModel, rows: np.ndarray, counts: np.ndarray, texts: Sequence[np.ndarray]) -> None:
    """Make [CLS] of a one-layer encoder the standardised mean of its text's word rows, rare words counting more.

    Every head attends to token t with weight RARE / (RARE + p(t)) times the length of its row, whose logarithm is the
    last column of the rows. `rows` are float32 (vocabulary, hidden), those of 0 hardly counting; `counts`
    (vocabulary,); the standardisation is measured on the token ids of `texts`.
    """
    hidden, heads = model.config.hidden_size, model.config.num_attention_heads
    directions = torch.from_numpy(rows).float()
    directions[:, -1] = 0
    lengths = directions.norm(dim=1, keepdim=True)
    is_known = lengths[:, 0] > 0
    relative = (lengths / lengths[is_known].mean()).clamp(*LENGTHS)
    shares = torch.from_numpy(counts / counts.sum())[:, None]
    weights = torch.where(is_known[:, None], relative * RARE / (RARE + shares), 1e-4).float()
    directions[~is_known, :-1] = torch.randn(int((~is_known).sum()), hidden - 1)
    words = math.sqrt(hidden) * torch.nn.functional.normalize(directions, dim=1)
    words[:, -1] = (weights / weights[is_known].log().mean().exp()).log()[:, 0]

    embeddings, layer = model.embeddings, cast(Any, model.encoder.layer[0])
    embeddings.word_embeddings.weight.copy_(model.config.initializer_range * words)
    for table in (embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.weight.zero_()
    attention, size = layer.attention.self, hidden // heads
    for linear, start in ((attention.query, 0), (attention.key, 1)):
        linear.weight *= WEAK
        _by_head(linear, size)[:, 0] = 0
        _by_head(linear, size)[:, 0, -1] = start
    attention.query.bias.view(heads, -1)[:, 0] = math.sqrt(size)
    attention.value.weight.copy_(torch.eye(hidden))
    means = torch.stack([(weights[ids] * words[ids]).sum(0) / weights[ids].sum() for ids in texts])
    scale = CONTRAST / means.std(dim=0)
    scale[-1] = 0
    layer.attention.output.dense.weight.copy_(torch.diag(scale))
    layer.attention.output.dense.bias.copy_(-scale * means.mean(dim=0))
    layer.output.dense.weight.zero_()


@torch.no_grad()
def start_as_linear_model(
    model: TLMForSequenceClassification, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any], labels: np.ndarray
) -> None:
    """Fit logistic regression on the encoder's [CLS] of n texts, and let the classifier start as it.

    Labels are int (n,); 0. and 1. (n, classes) are fitted one by one, and numbers (n,) by ridge regression. The pooler
    starts as half the identity, so that its tanh is nearly linear.
    """
    pooler: Any = model.bert.pooler
    pooler.dense.weight.copy_(POOLED * torch.eye(model.config.hidden_size))
    pooler.dense.bias.zero_()
    model.eval()
    states = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(texts[start : start + BATCH], truncation=True, padding=True, return_tensors="pt")
        types = None if isinstance(texts[0], str) else batch["token_type_ids"]
        states.append(model.bert(batch["input_ids"], batch["attention_mask"], types).pooler_output)
    every = torch.cat(states).numpy()
    if labels.ndim == 2:
        parts = [_fit_linear(every, column.astype(int)) for column in labels.T]
        # One logit in place of two.
        weights, biases = (2 * np.concatenate([part[side][-1:] for part in parts]) for side in (0, 1))
    else:
        weights, biases = _fit_linear(every, labels)
    model.classifier.weight.copy_(torch.from_numpy(weights))
    model.classifier.bias.copy_(torch.from_numpy(biases))


def _fit_linear(states: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of a linear model, both with a row for each class; zeros where all labels are equal."""
    if labels.dtype.kind == "f":
        ridge = Ridge(alpha=RIDGE).fit(states, labels)
        return ridge.coef_[None], np.array([ridge.intercept_])
    if np.ptp(labels) == 0:
        return np.zeros((2, states.shape[1])), np.zeros(2)
    fitted = LogisticRegression(max_iter=300).fit(states, labels)
    weights, biases = fitted.coef_, fitted.intercept_
    if len(weights) == 1:  # scikit-learn's form for two classes
        weights, biases = np.concatenate([-weights, weights]) / 2, np.concatenate([-biases, biases]) / 2
    return weights, biases


def _by_head(linear: nn.Linear, size: int) -> torch.Tensor:
    return linear.weight.view(-1, size, linear.in_features)  # (heads, head size, hidden)


def _frequencies(size: int) -> torch.Tensor:
    """Odd harmonics 2 pi (2j + 1) / (2 size), j < size / 2: float32 (size / 2,)."""
    return 2 * math.pi * (2 * torch.arange(size // 2) + 1) / (2 * size)


def position_features(count: int, size: int) -> torch.Tensor:
    """Features f(t) of positions t < count: float32 (count, size); f(s) f(t) is 1 for s = t, 0 for |s - t| < size."""
    angles = torch.arange(count)[:, None] * _frequencies(size)
    return torch.cat([angles.cos(), angles.sin()], dim=1) / math.sqrt(size // 2)


def rotation(offset: int, size: int) -> torch.Tensor:
    """R with R f(t) = f(t + offset) for all t: float32 (size, size)."""
    angles = _frequencies(size) * offset
    cosine, sine = torch.diag(angles.cos()), torch.diag(angles.sin())
    return torch.cat([torch.cat([cosine, -sine], dim=1), torch.cat([sine, cosine], dim=1)], dim=0)
