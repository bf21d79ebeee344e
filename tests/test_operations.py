"""Closed formulas of multiply-adds against torch's own counter of the products that really run.

Oracle: `torch.utils.flop_counter.FlopCounterMode` (FLOPs are 2 x multiply-adds) under eager attention, since sdpa on a
CPU counts as 0. Stock BERT and our plain path run on the meta device, where even the paper's shapes take no time; the
paths that look at which positions are labelled need real tensors.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from tlm_hf import TLMConfig, TLMForMaskedLM, TLMForSequenceClassification
from tlm_hf.flops import (
    PATHS,
    cheapest_path,
    classifier_multiply_adds,
    layer_multiply_adds,
    masked_lm_multiply_adds,
)
from tlm_hf.recipes import ARCHITECTURES, MASKED_SHARE, SIZES, build_config

BATCH = 2
CONVOLUTIONS = [recipe for recipe, architecture in ARCHITECTURES.items() if architecture.conv_kernel_sizes]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tiny(**changes):
    """No two of its numbers are equal, so that no formula can take one for another."""
    shape = {
        "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40,
        "max_position_embeddings": 19,
    }  # fmt: skip
    return TLMConfig(**shape | NO_DROPOUT | changes)


TINY = {
    "one layer": tiny(),
    "three layers": tiny(num_hidden_layers=3),
    "many narrow heads": tiny(num_attention_heads=24),
    "convolutions": tiny(num_hidden_layers=2, conv_channels=5, conv_kernel_sizes=[[5, 2], [1, 4], [3, 3]]),
}


def named(name):
    return TINY[name] if name in TINY else build_config(*name.split("@"), dropout=0.0)


def plain_numbers(config):
    names = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "max_position_embeddings", "num_labels",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names} | NO_DROPOUT


def counted(model, training, **inputs):
    """Multiply-adds per text of a forward pass, or of forward and backward."""
    model.train(training)
    batch = next(iter(inputs.values())).shape[0]
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as counter:
        outputs = model(**inputs)
        if training:
            outputs.loss.backward()
    total, rest = divmod(counter.get_total_flops(), 2 * batch)
    assert rest == 0
    return total


def count_on_meta(model_class, config, length, training, **options):
    with torch.device("meta"):
        model = model_class(config)
        inputs = {"input_ids": torch.zeros(BATCH, length, dtype=torch.long)}
        classifies = "Classification" in model_class.__name__
        inputs["labels"] = torch.zeros((BATCH,) if classifies else (BATCH, length), dtype=torch.long)
        return counted(model, training, **inputs, **options)


def count_ours(model_class, config, length, training, labelled=None, first=(5, 6)):
    """Multiply-adds of our model at its own choice of path, on real tensors.

    `labelled` positions in each text, none for a classifier; `first` tokens that differ forbid the constant query.
    """
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = model_class(config)
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.uniform_(-0.5, 0.5, generator=generator)  # not so small that texts come to equal each other
        for value in model.buffers():
            value.fill_(1)
    inputs = {"input_ids": torch.randint(5, config.vocab_size, (BATCH, length), generator=generator)}
    inputs["input_ids"][:, 0] = torch.tensor(first)
    if labelled is None:
        return counted(model, training, labels=torch.tensor([0, 1]), **inputs)
    order = torch.rand(BATCH, length, generator=generator).argsort(dim=1)
    labels = torch.where(order < labelled, inputs["input_ids"], -100)
    return counted(model, training, labels=labels, sparse_prediction=True, **inputs)


def share(length):
    return round(MASKED_SHARE * length)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize(
    ("name", "length"),
    [
        *[("one layer", 19), ("one layer", 7), ("three layers", 11), ("many narrow heads", 19), ("bert-6@laptop", 64)],
        *[("bert-1@paper", 128), ("bert-6@paper", 128), ("bert-1-wide@paper", 128)],
    ],
)
def test_plain_path_is_stock_bert(name, length, training):
    config = named(name)
    stock = BertConfig(**plain_numbers(config), attn_implementation="eager")
    found = masked_lm_multiply_adds(config, length, share(length), path="plain", training=training)
    assert found == count_on_meta(BertForMaskedLM, stock, length, training)
    stock = BertConfig(**plain_numbers(config) | {"num_labels": 7}, attn_implementation="eager")
    found = classifier_multiply_adds(config, length, 7, path="plain", training=training)
    assert found == count_on_meta(BertForSequenceClassification, stock, length, training)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("convolutions", 19), ("convolutions", 8), *[(f"{recipe}@paper", 128) for recipe in CONVOLUTIONS],
        ("bert-1-conv2-h8@laptop", 64), ("bert-1-conv2-k16@smoke", 32),
    ],
)  # fmt: skip
def test_plain_path_of_the_convolution_variants(name, length, training):
    config = named(name)
    plain = TLMConfig(**config.to_dict() | {"use_fast_path": False, "num_labels": 7})
    plain._attn_implementation = "eager"
    found = masked_lm_multiply_adds(config, length, share(length), path="plain", training=training)
    assert found == count_on_meta(TLMForMaskedLM, plain, length, training, sparse_prediction=False)
    found = classifier_multiply_adds(config, length, 7, path="plain", training=training)
    assert found == count_on_meta(TLMForSequenceClassification, plain, length, training)


# Shapes at which projecting keys and values is the cheaper way: many labels, or heads so many that each costs more.
REDUCED_MASKED = [("one layer", 19, 15), ("many narrow heads", 19, 3), ("convolutions", 8, 7), ("bert-6@smoke", 32, 32)]
REDUCED_CLS = [("many narrow heads", 19), ("many narrow heads", 7)]
# Shapes of the recipes, at which absorbing them is.
ABSORBED_MASKED = [
    ("one layer", 19, 3), ("three layers", 11, 2), ("convolutions", 19, 4), ("bert-6@smoke", 32, 5),
    ("bert-1-conv2@smoke", 32, 5), ("bert-1@laptop", 64, 10), ("bert-1@paper", 128, 19),
]  # fmt: skip
ABSORBED_CLS = [
    ("three layers", 11), ("convolutions", 19), ("bert-6@smoke", 32), ("bert-1-conv2@laptop", 64),
    ("bert-6@laptop", 64),
]  # fmt: skip
ONE_LAYER_CLS = [("one layer", 19), ("bert-1@laptop", 64), ("bert-1-wide@smoke", 32), ("bert-1@paper", 128)]

FORWARD_AND_STEP = [pytest.param(False, id="forward"), pytest.param(True, id="step")]


def check_masked(name, length, labelled, path, training):
    config = named(name)
    found = masked_lm_multiply_adds(config, length, labelled, path=path, training=training)
    assert found == count_ours(TLMForMaskedLM, config, length, training, labelled)
    assert found < masked_lm_multiply_adds(config, length, labelled, path="plain", training=training)


def check_cls(name, length, path, training):
    """Texts that start unlike: the query differs by text, whether or not it could have been constant."""
    config = named(name)
    found = classifier_multiply_adds(config, length, config.num_labels, path=path, training=training)
    assert found == count_ours(TLMForSequenceClassification, config, length, training)
    assert found < classifier_multiply_adds(config, length, config.num_labels, path="plain", training=training)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize(("name", "length", "labelled"), REDUCED_MASKED)
def test_reduced_path_of_the_masked_language_model(name, length, labelled, training):
    assert cheapest_path(named(name), length, labelled, training=training) == "reduced"
    if labelled == length:  # then only the bookkeeping is left of the shortcut
        config = named(name)
        found = masked_lm_multiply_adds(config, length, labelled, path="reduced", training=training)
        assert found == count_ours(TLMForMaskedLM, config, length, training, labelled)
        assert found == masked_lm_multiply_adds(config, length, labelled, path="plain", training=training)
    else:
        check_masked(name, length, labelled, "reduced", training)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize(("name", "length"), REDUCED_CLS)
def test_reduced_path_of_the_classifier(name, length, training):
    config = named(name)
    assert layer_multiply_adds(config, length, 1, "reduced") < layer_multiply_adds(config, length, 1, "absorbed")
    check_cls(name, length, "reduced", training)


@pytest.mark.parametrize("training", FORWARD_AND_STEP)
@pytest.mark.parametrize(("name", "length", "labelled"), ABSORBED_MASKED)
def test_absorbed_path_of_the_masked_language_model(name, length, labelled, training):
    assert cheapest_path(named(name), length, labelled, training=training) == "absorbed"
    check_masked(name, length, labelled, "absorbed", training)


@pytest.mark.parametrize("training", FORWARD_AND_STEP)
@pytest.mark.parametrize(("name", "length"), ABSORBED_CLS + ONE_LAYER_CLS)
def test_absorbed_path_of_the_classifier(name, length, training):
    if training or (name, length) in ABSORBED_CLS:
        assert cheapest_path(named(name), length, 1, training=training) == "absorbed"
    check_cls(name, length, "absorbed", training)


@pytest.mark.parametrize(("name", "length"), ONE_LAYER_CLS)
def test_constant_query_of_a_one_layer_classifier(name, length):
    """The model makes the constant, 2 h^2, once for a batch whose texts start alike; the formula leaves that out."""
    config = named(name)
    assert cheapest_path(config, length, 1, training=False) == "constant"
    found = classifier_multiply_adds(config, length, 2, path="constant")
    ours = count_ours(TLMForSequenceClassification, config, length, False, first=(5, 5))
    assert BATCH * ours == BATCH * found + 2 * config.hidden_size**2


def products(config, length, labelled):
    """The absorbed path's products, (rows, inner, columns) and how often, from the equations in `fast_paths_tlm`."""
    hidden, heads, wide = config.hidden_size, config.num_attention_heads, config.feed_forward_size
    size = hidden // heads
    return [
        (labelled, hidden, hidden, 1),  # q = W_q x
        (labelled, size, hidden, heads),  # u = W_k^T q, head by head
        (labelled, hidden, length, heads),  # scores u . x
        (labelled, length, hidden, heads),  # weights times x
        (labelled, hidden, size, heads),  # W_v times that, head by head
        (labelled, hidden, hidden, 1),  # output projection
        (labelled, hidden, wide, 1),
        (labelled, wide, hidden, 1),
    ]


@pytest.mark.parametrize(("name", "length", "labelled"), [*ABSORBED_MASKED, ("many narrow heads", 5, 4)])
def test_absorbed_layer_from_its_equations(name, length, labelled):
    """Each product, run by torch on random factors that both need a gradient: one forward and two backward."""
    config = named(name)
    counts = []
    for rows, inner, columns, times in products(config, length, labelled):
        left = torch.randn(times, rows, inner, device="meta", requires_grad=True)
        right = torch.randn(times, inner, columns, device="meta", requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            product = torch.bmm(left, right)
            forward = counter.get_total_flops()
            product.sum().backward()
        assert counter.get_total_flops() == 3 * forward
        counts.append(forward // 2)
    assert sum(counts) == layer_multiply_adds(config, length, labelled, "absorbed")


def test_break_even_of_absorbed_and_reduced():
    """Where the head of operations.py says it lies: q (h + (H - 1) T) < T h, 45 of 128 positions for bert-1."""
    config = build_config("bert-1", "paper")
    assert [cheapest_path(config, 128, queries, training=True) for queries in (1, 45, 46, 128)] == [
        "absorbed", "absorbed", "reduced", "reduced",
    ]  # fmt: skip
    for name, length in [("one layer", 19), ("many narrow heads", 19), ("bert-1-wide@smoke", 32), ("bert-6@paper", 77)]:
        config = named(name)
        hidden, heads = config.hidden_size, config.num_attention_heads
        for queries in range(1, length + 1):
            absorbed = queries * (hidden + (heads - 1) * length) < length * hidden
            assert cheapest_path(config, length, queries, training=True) == ("absorbed" if absorbed else "reduced")


def test_the_recipes_take_the_absorbed_path():
    for size, scale in SIZES.items():
        for recipe in ARCHITECTURES:
            config = build_config(recipe, size)
            assert cheapest_path(config, scale.max_length, share(scale.max_length), training=True) == "absorbed"
            assert cheapest_path(config, scale.max_length, 1, training=True) == "absorbed"
            constant = config.num_hidden_layers == 1 and not config.has_convolution
            found = cheapest_path(config, scale.max_length, 1, training=False)
            assert found == ("constant" if constant else "absorbed")


def test_constant_query_leaves_out_query_and_absorption():
    config = build_config("bert-1", "paper")
    absorbed, constant = (classifier_multiply_adds(config, 128, path=path) for path in ("absorbed", "constant"))
    assert absorbed - constant == 2 * 768**2
    # 2 H T h, value and output h^2 each, 8 h^2 of feed-forward, pooler h^2, classifier of 4
    assert constant == 2 * 12 * 128 * 768 + 11 * 768**2 + 4 * 768


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: layer_multiply_adds(tiny(), 9, 1, "fast"), f"'fast'.*{', '.join(PATHS)}"),
        (lambda: masked_lm_multiply_adds(tiny(), 9, 1, path="constant"), "no constant query"),
        (lambda: classifier_multiply_adds(tiny(), 9, path="constant", training=True), "for inference"),
        (lambda: classifier_multiply_adds(TINY["three layers"], 9, path="constant"), "one-layer encoder"),
        (lambda: classifier_multiply_adds(TINY["convolutions"], 9, path="constant"), "without convolution"),
    ],
)
def test_paths_that_do_not_exist_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
