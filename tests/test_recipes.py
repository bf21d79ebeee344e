"""The registry of recipes and sizes against stock BERT's parameter counts and the authors' table (arXiv 2507.14871)."""

import re

import pytest
import torch
from conftest import refusal
from transformers import BertConfig, BertModel

from tlm_hf import TLMModel
from tlm_hf.recipes import ARCHITECTURES, SIZES, build_config, describe_recipes, find_size

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


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def front_end_parameters(kernels, channels):
    """Convolution weights and biases, two numbers a channel for each batch norm; 1x1 back to one channel."""
    inputs, total = 1, 0
    for height, width in kernels:
        total += inputs * channels * height * width + channels + 2 * channels
        inputs = channels
    return total + channels + 1 + 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("recipe", ARCHITECTURES)
def test_parameters_are_those_of_stock_bert_and_the_front_end(recipe, size):
    config = build_config(recipe, size)
    with torch.device("meta"):
        ours, stock = TLMModel(config), BertModel(BertConfig(**config.to_dict()))
    expected = {name: tuple(value.shape) for name, value in stock.named_parameters()}
    encoder = {name: tuple(value.shape) for name, value in ours.named_parameters() if "front_end." not in name}
    assert encoder == expected
    extra = front_end_parameters(config.conv_kernel_sizes, config.conv_channels) if config.has_convolution else 0
    assert count(ours) == count(stock) + extra
    assert config.intermediate_size == 4 * config.hidden_size
    if size == "paper":
        shape = config.num_hidden_layers, config.num_attention_heads, config.conv_kernel_sizes, config.conv_channels
        assert shape == PAPER[recipe]
        assert config.hidden_size == 64 * config.num_attention_heads


def test_fields_can_be_overridden_one_by_one():
    shape = {"vocab_size": 77, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = build_config("bert-6", "smoke", **shape, max_length=9, initializer_range=0.5, dropout=0.0)
    assert shape.items() <= config.to_dict().items()
    assert (config.max_position_embeddings, config.initializer_range) == (9, 0.5)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.0
    assert build_config("bert-1", "smoke", hidden_size=128).num_attention_heads == 2
    assert build_config("bert-1-conv2", "paper", hidden_size=384).conv_channels == 32  # as many to a head as before
    # A narrow encoder at BERT's 0.02 stays at the unigram plateau: 1/sqrt(hidden) unless that is smaller.
    assert build_config("bert-1", "smoke").initializer_range == pytest.approx(1 / 8)
    assert build_config("bert-1", "smoke", hidden_size=64 * 64, num_attention_heads=64).initializer_range == 0.02


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: build_config("bert-2", "smoke"), "'bert-2'.*bert-1-conv2-k16"),
        (lambda: build_config("bert-1", "huge"), "'huge'.*paper"),
        (lambda: find_size("Paper"), "no size 'Paper'"),
        (lambda: build_config("bert-1", "smoke", hidden_size=65, num_attention_heads=2), "65 is not divisible by 2"),
        (lambda: build_config("bert-1", "smoke", hidden_size=200), "200 is not divisible by 3"),
        (lambda: build_config("bert-1", "smoke", num_hidden_layers=0), "--num-hidden-layers is 0"),
    ],
)
def test_bad_names_and_numbers_are_refused_in_one_sentence(call, sentence):
    assert re.search(sentence, refusal(call))


def test_the_printed_table():
    rows = {line.split()[0]: line.split()[1:] for line in describe_recipes().splitlines() if "@" in line}
    assert list(rows) == [f"{recipe}@{size}" for size in SIZES for recipe in ARCHITECTURES]
    with torch.device("meta"):
        stock = BertModel(BertConfig(**build_config("bert-6", "paper").to_dict()))
    assert rows["bert-6@paper"] == ["6", "768", "12", f"{count(stock):,}"]
