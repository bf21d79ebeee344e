"""The registry of recipes and sizes against stock BERT's parameter counts and the published table.

Oracles: `transformers.BertModel` of the same configuration (built without memory, on the meta device); the front-end's
parameters counted by hand; the authors' table (arXiv 2507.14871, released encoders) typed in here.
"""

import pytest
import torch
from transformers import BertConfig, BertModel

from tlm_hf import TLMModel, UserError
from tlm_hf.recipes import (
    ARCHITECTURES,
    SIZES,
    build_config,
    describe_recipes,
    find_architecture,
    find_size,
    shorten,
)

# recipe: layers, heads, convolution kernels, channels (paper shapes; hidden = 64 x heads)
PAPER = {
    "bert-6": (6, 12, None, None),
    "bert-1": (1, 12, None, None),
    "bert-1-wide": (1, 24, None, None),
    "bert-1-conv2": (1, 12, [[3, 3], [3, 3]], 64),
    "bert-1-conv2-h8": (1, 8, [[3, 3], [3, 3]], 64),
    "bert-1-conv3": (1, 12, [[3, 3], [3, 3], [3, 3]], 32),
    "bert-1-conv2-k16": (1, 12, [[16, 16], [3, 3]], 64),
}
# size: hidden and heads of bert-1, vocabulary, length, channels of a 64-channel recipe
SCALES = {
    "smoke": (64, 1, 1000, 32, 4),
    "laptop": (256, 4, 8000, 64, round(64 * 256 / 768)),
    "paper": (768, 12, 30522, 128, 64),
}
# bert-base-uncased is 109,482,240 parameters with its pooler, as published.
BERT_BASE = {"vocab_size": 30522, "max_position_embeddings": 512, "num_hidden_layers": 12}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def front_end_parameters(kernels, channels):
    """Convolution weights and biases, two numbers a channel for each batch norm; 1x1 back to one channel."""
    inputs, total = 1, 0
    for height, width in kernels:
        total += inputs * channels * height * width + channels + 2 * channels
        inputs = channels
    return total + channels + 1 + 2


def stock_config(config, **changes):
    names = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "max_position_embeddings", "type_vocab_size",
    )  # fmt: skip
    return BertConfig(**{name: getattr(config, name) for name in names} | changes)


@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.parametrize("recipe", sorted(ARCHITECTURES))
def test_parameters_are_those_of_stock_bert_and_the_front_end(recipe, size):
    config = build_config(recipe, size)
    with torch.device("meta"):
        ours, stock = TLMModel(config), BertModel(stock_config(config))
    expected = {name: tuple(value.shape) for name, value in stock.named_parameters()}
    found = {name: tuple(value.shape) for name, value in ours.named_parameters() if not name.startswith("front_end.")}
    assert found == expected
    extra = front_end_parameters(config.conv_kernel_sizes, config.conv_channels) if config.has_convolution else 0
    assert count(ours) == count(stock) + extra
    assert config.intermediate_size == 4 * config.hidden_size


def test_bert_base_has_its_published_parameters():
    with torch.device("meta"):
        model = TLMModel(build_config("bert-1", "paper", max_length=512, num_hidden_layers=12))
    assert count(model) == 109_482_240
    with torch.device("meta"):
        assert count(BertModel(BertConfig(**BERT_BASE))) == 109_482_240


def test_the_registry_holds_the_published_encoders():
    assert set(ARCHITECTURES) == set(PAPER)
    for recipe, (layers, heads, kernels, channels) in PAPER.items():
        config = build_config(recipe, "paper")
        assert (config.num_hidden_layers, config.num_attention_heads) == (layers, heads)
        assert config.hidden_size == 64 * heads
        assert config.conv_kernel_sizes == kernels
        assert config.conv_channels == channels
        assert config.vocab_size == 30522
        assert config.max_position_embeddings == 128


@pytest.mark.parametrize("size", sorted(SCALES))
def test_sizes_are_those_promised(size):
    hidden, heads, vocabulary, length, channels = SCALES[size]
    for recipe in ("bert-1", "bert-6"):
        config = build_config(recipe, size)
        assert (config.hidden_size, config.num_attention_heads) == (hidden, heads)
        assert (config.vocab_size, config.max_position_embeddings) == (vocabulary, length)
    assert build_config("bert-1-wide", size).hidden_size == 2 * hidden
    assert build_config("bert-1-conv2", size).conv_channels == channels
    assert build_config("bert-1-conv3", size).conv_channels == pytest.approx(channels / 2, abs=0.5)
    for recipe in ARCHITECTURES:
        config = build_config(recipe, size)
        assert config.hidden_size == 64 * config.num_attention_heads


def test_sizes_carry_the_published_samples():
    assert SIZES["paper"].num_texts in (20_000, 40_000, 90_000)
    assert SIZES["paper"].train_per_label == 1000  # AG News
    assert SIZES["paper"].test_per_label == 1000
    assert (SIZES["smoke"].num_texts, SIZES["smoke"].train_per_label, SIZES["smoke"].test_per_label) == (500, 20, 10)
    assert (SIZES["laptop"].train_per_label, SIZES["laptop"].test_per_label) == (1000, 500)


def test_fields_can_be_overridden_one_by_one():
    config = build_config(
        "bert-6", "smoke", vocab_size=77, max_length=9, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.5, dropout=0.0,
    )  # fmt: skip
    assert (config.vocab_size, config.max_position_embeddings, config.hidden_size) == (77, 9, 48)
    assert (config.num_hidden_layers, config.num_attention_heads, config.initializer_range) == (2, 4, 0.5)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.0
    assert build_config("bert-1", "smoke", hidden_size=128).num_attention_heads == 2
    # A narrow encoder at BERT's 0.02 sits at the unigram plateau: 1/sqrt(hidden) unless that is smaller.
    assert build_config("bert-1", "smoke").initializer_range == pytest.approx(1 / 8)
    assert build_config("bert-1", "smoke", hidden_size=64 * 64, num_attention_heads=64).initializer_range == 0.02


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: build_config("bert-2", "smoke"), "'bert-2'.*bert-1-conv2-k16"),
        (lambda: build_config("bert-1", "huge"), "'huge'.*paper"),
        (lambda: find_architecture(""), "no recipe ''"),
        (lambda: find_size("Paper"), "no size 'Paper'"),
        (lambda: build_config("bert-1", "smoke", hidden_size=65, num_attention_heads=2), "65 is not divisible by 2"),
        (lambda: build_config("bert-1", "smoke", hidden_size=200), "200 is not divisible by 3"),
    ],
)
def test_bad_names_and_heads_are_refused_in_one_sentence(call, sentence, one_sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        call()
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("recipe", "size", "width", "channels"),
    [
        ("bert-1-conv2", "paper", 384, 32),
        ("bert-1-conv2-h8", "paper", 1024, 128),  # 64 channels belong to its 512
        ("bert-1-conv3", "paper", 384, 16),
        ("bert-1-conv2", "laptop", 768, 64),
        ("bert-1-conv2", "smoke", 128, 8),
        ("bert-1-conv2", "smoke", 64, 4),
    ],
)
def test_channels_follow_an_overridden_width(recipe, size, width, channels):
    assert build_config(recipe, size, hidden_size=width).conv_channels == channels


@pytest.mark.parametrize("recipe", ["bert-1-conv2", "bert-1-conv2-h8", "bert-1-conv3", "bert-1-conv2-k16"])
def test_channels_scale_with_the_width_from_the_papers(recipe):
    paper = PAPER[recipe]
    for size in ("quickstart", "laptop"):
        share = SIZES[size].heads / 12
        assert build_config(recipe, size).conv_channels == round(paper[3] * share)
        assert build_config(recipe, size).conv_kernel_sizes == paper[2]


@pytest.mark.parametrize(
    ("count", "short"),
    [
        (173_000, "173K"), (1_824_768, "1.82M"), (85_600_000, "85.6M"), (1_230_000_000, "1.23G"), (999_400, "999K"),
        (999_600, "1.00M"), (99_960, "100K"), (9_996, "10.0K"), (12, "12.0"), (4_000_000_000_000, "4.00T"),
    ],
)  # fmt: skip
def test_counts_are_shortened_to_three_digits(count, short):
    assert shorten(count) == short


def table_rows():
    return {line.split()[0]: line.split()[1:] for line in describe_recipes().splitlines() if "@" in line}


def test_the_printed_table_has_every_recipe_with_its_parameters():
    rows = table_rows()
    assert list(rows) == [f"{recipe}@{size}" for size in SIZES for recipe in ARCHITECTURES]
    with torch.device("meta"):
        stock = BertModel(stock_config(build_config("bert-6", "paper")))
    layers, hidden, heads, parameters, without = rows["bert-6@paper"][:5]
    assert (layers, hidden, heads) == ("6", "768", "12")
    assert int(parameters.replace(",", "")) == count(stock)
    assert int(without.replace(",", "")) == count(stock) - count(stock.embeddings)
    assert max(len(line) for line in describe_recipes().splitlines()) <= 120


def test_the_printed_table_has_multiply_adds():
    """Worked by hand at h = 768, T = 128, H = 12, V = 30522, 19 labels a text, 4 classes."""
    square, rows = 768**2, table_rows()
    full_layer = 12 * 128 * square + 2 * 128 * 128 * 768
    last_layer = 2 * 19 * 12 * 128 * 768 + 12 * 19 * square
    decoder = square + 768 * 30522
    last_cls, constant = 2 * 12 * 128 * 768 + 12 * square, 2 * 12 * 128 * 768 + 10 * square
    head = square + 4 * 768
    for recipe, before, reading in (("bert-1", 0, constant), ("bert-6", 5 * full_layer, last_cls)):
        assert rows[f"{recipe}@paper"][5:] == [
            shorten(3 * (before + last_layer + 19 * decoder)),
            shorten(3 * (before + full_layer + 128 * decoder)),
            shorten(3 * (before + last_cls + head)),
            shorten(before + reading + head),
            shorten(before + full_layer + head),
        ]
    front_end = 128 * 512 * (9 * 64 + 9 * 64 * 64 + 64)
    layer = 12 * 128 * 512**2 + 2 * 128 * 128 * 512
    assert rows["bert-1-conv2-h8@paper"][9] == shorten(front_end + layer + 512**2 + 4 * 512)
