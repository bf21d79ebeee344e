"""Closed formulas of multiply-adds against `torch.utils.flop_counter`, which counts the products that really run.

FLOPs are 2 x multiply-adds, under eager attention, since sdpa on a CPU counts as 0. Stock BERT and our plain path run
on the meta device; the paths that look at which positions are labelled need real tensors.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from tlm_hf import TLMConfig, TLMForMaskedLM, TLMForSequenceClassification
from tlm_hf.flops import cheapest_path, classifier_multiply_adds, masked_lm_multiply_adds
from tlm_hf.recipes import ARCHITECTURES, MASKED_SHARE, build_config

BATCH = 2
CONVOLUTIONS = [recipe for recipe, architecture in ARCHITECTURES.items() if architecture.conv_kernel_sizes]
BY_TRAINING = pytest.mark.parametrize("training", [False, True], ids=["forward", "step"])


def tiny(**changes):
    """No two of its numbers are equal, so that no formula can take one for another."""
    shape = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
    shape |= {"intermediate_size": 40, "max_position_embeddings": 19}
    return TLMConfig(**shape | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | changes)


TINY = {
    "one layer": tiny(),
    "three layers": tiny(num_hidden_layers=3),
    "many narrow heads": tiny(num_attention_heads=24),
    "convolutions": tiny(num_hidden_layers=2, conv_channels=5, conv_kernel_sizes=[[5, 2], [1, 4], [3, 3]]),
}


def named(name):
    return TINY[name] if name in TINY else build_config(*name.split("@"), dropout=0.0)


def counted(model, training, **inputs):
    """Multiply-adds per text of a forward pass, or of forward and backward."""
    model.train(training)
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as counter:
        outputs = model(**inputs)
        if training:
            outputs.loss.backward()
    total, rest = divmod(counter.get_total_flops(), 2 * BATCH)
    assert rest == 0
    return total


def count_on_meta(model_class, config, length, training, **options):
    with torch.device("meta"):
        model = model_class(config)
        inputs = {"input_ids": torch.zeros(BATCH, length, dtype=torch.long)}
        classifies = "Classification" in model_class.__name__
        inputs["labels"] = torch.zeros((BATCH,) if classifies else (BATCH, length), dtype=torch.long)
        return counted(model, training, **inputs, **options)


def count_ours(model_class, config, length, training, labelled=None):
    """Multiply-adds of our model at its own choice of path."""
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = model_class(config)
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.uniform_(-0.5, 0.5, generator=generator)
        for value in model.buffers():
            value.fill_(1)
    ids = torch.randint(5, config.vocab_size, (BATCH, length), generator=generator)
    if labelled is None:
        return counted(model, training, input_ids=ids, labels=torch.tensor([0, 1]))
    order = torch.rand(BATCH, length, generator=generator).argsort(dim=1)
    labels = torch.where(order < labelled, ids, -100)
    return counted(model, training, input_ids=ids, labels=labels, sparse_prediction=True)


def share(length):
    return round(MASKED_SHARE * length)


PLAIN = [("one layer", 7), ("three layers", 11), ("many narrow heads", 19), ("bert-6@paper", 128), ("convolutions", 19)]
PLAIN += [("convolutions", 8), *((f"{recipe}@paper", 128) for recipe in CONVOLUTIONS)]


@BY_TRAINING
@pytest.mark.parametrize(("name", "length"), PLAIN)
def test_plain_path_is_stock_bert_and_convolutions(name, length, training):
    config, sparse = named(name), {}
    plain = BertConfig(**config.to_dict() | {"num_labels": 7}, attn_implementation="eager")
    classes = BertForMaskedLM, BertForSequenceClassification
    if config.has_convolution:
        plain = TLMConfig(**config.to_dict() | {"use_fast_path": False, "num_labels": 7})
        plain._attn_implementation, sparse = "eager", {"sparse_prediction": False}
        classes = TLMForMaskedLM, TLMForSequenceClassification
    formula = masked_lm_multiply_adds(config, length, share(length), training=training)
    assert formula == count_on_meta(classes[0], plain, length, training, **sparse)
    formula = classifier_multiply_adds(config, length, 7, training=training)
    assert formula == count_on_meta(classes[1], plain, length, training)


@BY_TRAINING
@pytest.mark.parametrize(
    ("path", "name", "length", "labelled"),
    [
        ("reduced", "one layer", 19, 15),
        ("reduced", "many narrow heads", 19, 3),
        ("reduced", "bert-6@smoke", 32, 32),
        ("absorbed", "three layers", 11, 2),
        ("absorbed", "convolutions", 19, 4),
        ("absorbed", "bert-1@laptop", 64, 10),
        ("reduced", "many narrow heads", 19, None),
        ("absorbed", "three layers", 11, None),
        ("absorbed", "convolutions", 19, None),
        ("absorbed", "bert-1@laptop", 64, None),
    ],
)
def test_fast_paths(path, name, length, labelled, training):
    """Of the masked language model, and (None labelled) of the classifier."""
    config = named(name)
    if labelled is None:
        formula = classifier_multiply_adds(config, length, config.num_labels, path=path, training=training)
        assert formula == count_ours(TLMForSequenceClassification, config, length, training)
    else:
        assert cheapest_path(config, length, labelled) == path
        formula = masked_lm_multiply_adds(config, length, labelled, path=path, training=training)
        assert formula == count_ours(TLMForMaskedLM, config, length, training, labelled)


def test_break_even_of_absorbed_and_reduced():
    """q (h + (H - 1) T) < T h, as the head of flops.py says: 45 of 128 positions for bert-1."""
    for name, length in [("bert-1@paper", 128), ("many narrow heads", 19), ("bert-1-wide@smoke", 32)]:
        config = named(name)
        hidden, heads = config.hidden_size, config.num_attention_heads
        paths = [cheapest_path(config, length, queries) for queries in range(1, length + 1)]
        cheaper = [queries * (hidden + (heads - 1) * length) < length * hidden for queries in range(1, length + 1)]
        assert paths == ["absorbed" if is_cheaper else "reduced" for is_cheaper in cheaper]
    assert sum(cheaper) < length
    ends = [cheapest_path(named("bert-1@paper"), 128, queries) for queries in (45, 46)]
    assert ends == ["absorbed", "reduced"]
