"""The architectures and sizes by name: one registry; names are generated from it, never parsed back.

Run `python -m tlm_hf.recipes` to print the table. Architectures are the paper's (arXiv 2507.14871, released encoders)
and the plain `bert-1`; head size is 64 throughout, feed-forward 4 x hidden.
"""

from dataclasses import dataclass

from .configuration_tlm import TLMConfig
from .errors import UserError

HEAD_SIZE = 64
PAPER_HEADS = 12


@dataclass(frozen=True)
class Architecture:
    """One encoder of the family at the paper's width.

    Args:
        name: what users type.
        num_hidden_layers: transformer layers.
        num_attention_heads: heads at `paper` width; hidden size is 64 x heads.
        conv_kernel_sizes: one (sequence, hidden) kernel per convolution layer; empty for none.
        conv_channels: convolution channels at `paper` width.
    """

    name: str
    num_hidden_layers: int
    num_attention_heads: int
    conv_kernel_sizes: tuple[tuple[int, int], ...] = ()
    conv_channels: int | None = None


@dataclass(frozen=True)
class Size:
    """A scale at which the whole family is trained.

    Args:
        name: what users type.
        heads: heads of `bert-1` and `bert-6` (12 at `paper`); other recipes scale along.
        vocab_size: WordPiece vocabulary.
        max_length: tokens per text, special tokens included.
        conv_channels: channels of a 64-channel recipe, None for 64 x hidden/768.
        num_texts: pre-training texts by default.
        train_per_label, validation_per_label, test_per_label: task samples by default.
    """

    name: str
    heads: int
    vocab_size: int
    max_length: int
    num_texts: int
    train_per_label: int
    validation_per_label: int
    test_per_label: int
    conv_channels: int | None = None


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("bert-6", 6, 12),
        Architecture("bert-1", 1, 12),
        Architecture("bert-1-wide", 1, 24),
        Architecture("bert-1-conv2", 1, 12, ((3, 3), (3, 3)), 64),
        Architecture("bert-1-conv2-h8", 1, 8, ((3, 3), (3, 3)), 64),
        Architecture("bert-1-conv3", 1, 12, ((3, 3), (3, 3), (3, 3)), 32),
        Architecture("bert-1-conv2-k16", 1, 12, ((16, 16), (3, 3)), 64),
    )
}

SIZES = {
    size.name: size
    for size in (
        Size("smoke", 1, 1000, 32, 500, 20, 10, 10, conv_channels=4),
        Size("quickstart", 2, 8000, 64, 30_000, 200, 100, 100),
        Size("laptop", 4, 8000, 64, 100_000, 1000, 200, 500),
        Size("paper", 12, 30522, 128, 40_000, 1000, 200, 1000),
    )
}


def find_architecture(name: str) -> Architecture:
    """Look an architecture up.

    Raises:
        UserError: unknown name; the sentence lists the known ones.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"There is no recipe {name!r}; choose one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


def find_size(name: str) -> Size:
    """Look a size up.

    Raises:
        UserError: unknown name; the sentence lists the known ones.
    """
    if name not in SIZES:
        raise UserError(f"There is no size {name!r}; choose one of {', '.join(SIZES)}.")
    return SIZES[name]


def build_config(
    recipe: str,
    size: str,
    *,
    vocab_size: int | None = None,
    max_length: int | None = None,
    hidden_size: int | None = None,
    num_hidden_layers: int | None = None,
    num_attention_heads: int | None = None,
    initializer_range: float | None = None,
    dropout: float = 0.1,
) -> TLMConfig:
    """Configuration of `recipe@size`, with single fields overridden.

    Args:
        recipe: name in `ARCHITECTURES`.
        size: name in `SIZES`.
        vocab_size: the tokenizer's; None for the size's.
        max_length: longest text in tokens; None for the size's.
        hidden_size: width; None for 64 x heads.
        num_hidden_layers: depth; None for the recipe's.
        num_attention_heads: heads; None for the recipe's scaled to the size, or hidden_size / 64.
        initializer_range: standard deviation of new weights; None for max(0.02, 1/sqrt(hidden_size)).
        dropout: hidden and attention dropout.

    Raises:
        UserError: unknown name, or heads that do not divide the hidden size.
    """
    architecture, scale = find_architecture(recipe), find_size(size)
    given = {"vocab-size": vocab_size, "max-length": max_length, "hidden-size": hidden_size}
    given |= {"num-hidden-layers": num_hidden_layers, "num-attention-heads": num_attention_heads}
    for option, value in given.items():
        if value is not None and value < 1:
            raise UserError(f"--{option} is {value}: give at least 1.")
    heads = num_attention_heads
    if heads is None and hidden_size is not None:
        heads = max(1, hidden_size // HEAD_SIZE)
    elif heads is None:
        heads = max(1, round(architecture.num_attention_heads * scale.heads / PAPER_HEADS))
    hidden = hidden_size or HEAD_SIZE * heads
    if hidden % heads:
        raise UserError(
            f"hidden size {hidden} is not divisible by {heads} attention heads; choose a multiple of {heads}, or set "
            "--num-attention-heads."
        )
    channels = None
    if architecture.conv_channels is not None:
        share = scale.heads / PAPER_HEADS
        at_64 = scale.conv_channels if scale.conv_channels is not None else 64 * share
        channels = max(1, round(architecture.conv_channels / 64 * at_64))
    return TLMConfig(
        vocab_size=vocab_size or scale.vocab_size,
        hidden_size=hidden,
        num_hidden_layers=num_hidden_layers or architecture.num_hidden_layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=max_length or scale.max_length,
        initializer_range=max(0.02, hidden**-0.5) if initializer_range is None else initializer_range,
        conv_channels=channels,
        conv_kernel_sizes=[list(pair) for pair in architecture.conv_kernel_sizes] or None,
    )


def describe_recipes() -> str:
    """Table of every recipe at every size: layers, hidden size, heads, parameters with and without embeddings."""
    import torch

    from .modeling_tlm import TLMModel

    rows = [f"{'recipe@size':<28}{'layers':>7}{'hidden':>8}{'heads':>7}{'parameters':>13}{'without embeddings':>20}"]
    for size in SIZES:
        for recipe in ARCHITECTURES:
            config = build_config(recipe, size)
            with torch.device("meta"):
                model = TLMModel(config)
            total = sum(parameter.numel() for parameter in model.parameters())
            inside = total - sum(parameter.numel() for parameter in model.embeddings.parameters())
            rows.append(
                f"{recipe + '@' + size:<28}{config.num_hidden_layers:>7}{config.hidden_size:>8}"
                f"{config.num_attention_heads:>7}{total:>13,}{inside:>20,}"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    import sys

    sys.stdout.write(describe_recipes() + "\n")
