"""Multiply-adds of one text in closed form: pre-training, fine-tuning, inference, by the path that the model takes.

Counted are matrix products (linear layers and the two products of attention) and convolutions, as
`torch.utils.flop_counter.FlopCounterMode` counts them under eager attention (its FLOPs are 2 x multiply-adds; it counts
sdpa on a CPU as 0). Not counted is work on each element alone: biases, LayerNorm, BatchNorm, activations, softmax,
dropout, the loss, the optimizer; embeddings are looked up, which is no product. A convolution is counted at every one
of its sequence x hidden places, zeros at the border included. Texts have full length, without padding.

Training is forward and backward: a product of two factors has two products of the same size in the backward pass, one
for the gradient of each factor, and every factor needs one. The weights train, and the embeddings do, so the input of
the first layer or convolution needs its gradient too. Hence a training step is 3 x its forward pass; that no longer
holds when a part is frozen or activations are recomputed.

Paths (h hidden size, H heads, T length, f feed-forward width, q positions of the text that the head reads). They
differ in the last layer alone; every layer before it costs 4 T h^2 + 2 T^2 h + 2 T h f.

- plain: stock BERT. The last layer is like the others; a masked language model scores all T positions.
- reduced: keys and values at T, all else at q: 2 T h^2 + 2 q T h + 2 q h^2 + 2 q h f.
- absorbed: keys and values are never projected. The query (q h^2) is carried through the key weights of its head
  (q h^2), meets the T inputs in each head (q H T h), their weighted sum (q H T h) goes through the value weights
  (q h^2), and the rest is as before: 2 q H T h + 4 q h^2 + 2 q h f. Cheaper than reduced when
  q (h + (H - 1) T) < T h: up to 45 of 128 positions at h = 768.
- constant: absorbed, in a one-layer encoder without convolution at inference, whose query at [CLS] is the same for all
  texts that start alike: 2 H T h + 2 h^2 + 2 h f. What makes the constant, 2 h^2 once for a batch, is left out.
"""

from .models.configuration_tlm import TLMConfig

PATHS = ("plain", "reduced", "absorbed", "constant")
TRAINING_STEP = 3
"""Products of a training step for each product of its forward pass."""


def front_end_multiply_adds(config: TLMConfig, length: int) -> int:
    """Forward pass of the convolution front-end over `length` tokens: 0 without one."""
    channels, inputs, per_place = config.conv_channels or 0, 1, 0
    for height, width in config.conv_kernel_sizes or []:
        per_place += inputs * channels * height * width
        inputs = channels
    return (per_place + channels) * length * config.hidden_size  # + channels: 1x1 back to one channel


def layer_multiply_adds(config: TLMConfig, length: int, queries: int, path: str = "plain") -> int:
    """Forward pass of one transformer layer over one text.

    Args:
        config: gives hidden size, heads and feed-forward width.
        length: tokens of the text, T.
        queries: positions whose output is read, q; all T are computed when `path` is plain.
        path: see the head of this file.

    Raises:
        ValueError: for an unknown path.
    """
    hidden, heads, feed_forward = config.hidden_size, config.num_attention_heads, config.feed_forward_size
    if path == "plain":
        queries = length
    after = queries * (hidden**2 + 2 * hidden * feed_forward)  # output projection and feed-forward block
    if path in ("plain", "reduced"):
        return 2 * length * hidden**2 + queries * hidden**2 + 2 * queries * length * hidden + after
    if path not in PATHS:
        raise ValueError(f"There is no path {path!r}; choose one of {', '.join(PATHS)}.")
    projections = 3 if path == "absorbed" else 1  # query, its absorption, value; the value alone
    return projections * queries * hidden**2 + 2 * queries * heads * length * hidden + after


def encoder_multiply_adds(config: TLMConfig, length: int, queries: int, path: str = "plain") -> int:
    """Forward pass of front-end and layers, without pooler and head; arguments as in `layer_multiply_adds`.

    Raises:
        ValueError: for an unknown path, or for the constant query where a text's own words reach it.
    """
    if path == "constant" and (config.num_hidden_layers > 1 or config.has_convolution):
        raise ValueError("The query at [CLS] is constant only in a one-layer encoder without convolution.")
    before = front_end_multiply_adds(config, length)
    before += (config.num_hidden_layers - 1) * layer_multiply_adds(config, length, length)
    return before + layer_multiply_adds(config, length, queries, path)


def masked_lm_multiply_adds(
    config: TLMConfig, length: int, labelled: int, *, path: str = "plain", training: bool = True
) -> int:
    """One text through encoder, transform and decoder.

    Args:
        config: the encoder's.
        length: tokens of the text.
        labelled: positions with a label, the same in each text of the batch (the model packs the queries of a batch
            into as many slots as its fullest row has labels; that surplus is not counted). The plain path ignores it.
        path: plain, reduced or absorbed; see the head of this file.
        training: forward and backward; else forward alone.

    Raises:
        ValueError: for a path that does not exist for this head.
    """
    if path == "constant":
        raise ValueError("A masked language model has no constant query: that is [CLS]'s, at inference.")
    scored = length if path == "plain" else labelled
    head = scored * (config.hidden_size**2 + config.hidden_size * config.vocab_size)
    return (encoder_multiply_adds(config, length, labelled, path) + head) * (TRAINING_STEP if training else 1)


def classifier_multiply_adds(
    config: TLMConfig, length: int, num_labels: int = 4, *, path: str = "plain", training: bool = False
) -> int:
    """One text through encoder, pooler and classifier, which read [CLS] alone.

    Args:
        config: the encoder's.
        length: tokens of the text.
        num_labels: classes; 4 are AG News's, and 64 would add 60 x hidden, next to nothing.
        path: see the head of this file.
        training: forward and backward; else forward alone.

    Raises:
        ValueError: for a path that does not exist, or the constant query in training (its weights get gradients).
    """
    if path == "constant" and training:
        raise ValueError("The constant query is for inference: in training its weights get gradients.")
    head = config.hidden_size**2 + config.hidden_size * num_labels
    return (encoder_multiply_adds(config, length, 1, path) + head) * (TRAINING_STEP if training else 1)


def cheapest_path(config: TLMConfig, length: int, queries: int, *, training: bool) -> str:
    """The path of fewest multiply-adds that reads `queries` positions of a text.

    Args:
        config: the encoder's.
        length: tokens of the text.
        queries: positions that the head reads; 1 is taken to be a classifier's [CLS].
        training: whether gradients are wanted, which rules the constant query out.
    """
    if not training and queries == 1 and config.num_hidden_layers == 1 and not config.has_convolution:
        return "constant"
    return min(("reduced", "absorbed"), key=lambda path: layer_multiply_adds(config, length, queries, path))


__all__ = [
    "PATHS", "TRAINING_STEP", "cheapest_path", "classifier_multiply_adds", "encoder_multiply_adds",
    "front_end_multiply_adds", "layer_multiply_adds", "masked_lm_multiply_adds",
]  # fmt: skip
