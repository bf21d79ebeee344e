"""Multiply-adds of one text of full length in closed form, by the path that the model takes.

Counted are matrix products and convolutions, as `torch.utils.flop_counter` counts them under eager attention (its FLOPs
are 2 x multiply-adds), not work on single elements. A training step is 3 x its forward pass: each product has two in
the backward pass, one for each factor's gradient.

Paths differ in the last layer alone. With h hidden size, H heads, T length and q positions that the head reads:

- plain, as in stock BERT (q = T), and reduced: keys and values at T, all else at q.
- absorbed: the query (q h^2) goes through the key weights of its head (q h^2), meets the T inputs in each head
  (q H T h), and their weighted sum (q H T h) goes through the value weights (q h^2). Cheaper than reduced when
  q (h + (H - 1) T) < T h: up to 45 of 128 positions at h = 768.
"""

from .models.configuration_tlm import TLMConfig

TRAINING_STEP = 3


def layer_multiply_adds(config: TLMConfig, length: int, queries: int, path: str) -> int:
    """Forward pass of one transformer layer over `length` tokens, read at `queries` of them (all where plain)."""
    hidden = config.hidden_size
    queries = length if path == "plain" else queries
    after = queries * (hidden**2 + 2 * hidden * config.feed_forward_size)
    if path in ("plain", "reduced"):
        return 2 * length * hidden**2 + queries * hidden**2 + 2 * queries * length * hidden + after
    return 3 * queries * hidden**2 + 2 * queries * config.num_attention_heads * length * hidden + after


def encoder_multiply_adds(config: TLMConfig, length: int, queries: int, path: str) -> int:
    """Forward pass of front-end and layers, without pooler and head; arguments as in `layer_multiply_adds`."""
    channels, inputs, places = config.conv_channels or 0, 1, length * config.hidden_size
    per_place = channels  # the 1x1 convolution back to one channel
    for height, width in config.conv_kernel_sizes or []:
        per_place += inputs * channels * height * width
        inputs = channels
    before = (config.num_hidden_layers - 1) * layer_multiply_adds(config, length, length, "plain")
    return per_place * places + before + layer_multiply_adds(config, length, queries, path)


def masked_lm_multiply_adds(
    config: TLMConfig, length: int, labelled: int, *, path: str = "plain", training: bool = True
) -> int:
    """One text with `labelled` labels through encoder, transform and decoder; path plain, reduced or absorbed."""
    scored = length if path == "plain" else labelled
    head = scored * (config.hidden_size**2 + config.hidden_size * config.vocab_size)
    return (encoder_multiply_adds(config, length, labelled, path) + head) * (TRAINING_STEP if training else 1)


def classifier_multiply_adds(
    config: TLMConfig, length: int, num_labels: int = 4, *, path: str = "plain", training: bool = False
) -> int:
    """One text through encoder, pooler and classifier, which read [CLS] alone."""
    head = config.hidden_size**2 + config.hidden_size * num_labels
    return (encoder_multiply_adds(config, length, 1, path) + head) * (TRAINING_STEP if training else 1)


def cheapest_path(config: TLMConfig, length: int, queries: int) -> str:
    """The path of fewest multiply-adds that reads `queries` positions of a text; 1 is a classifier's [CLS]."""
    return min(("reduced", "absorbed"), key=lambda path: layer_multiply_adds(config, length, queries, path))
