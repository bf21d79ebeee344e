"""What the tests of models share: small batches, and the comparison of ours with stock BERT on the same weights.

Gradients agree to 1e-5 of the largest entry of all: that of the key biases is 0, so its own size is no measure.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import CLASSES, TINY, randomise
from transformers import BertConfig, BertForSequenceClassification

from tlm_hf import CommitteeForSequenceClassification
from tlm_hf.models import layers_tlm

VOCABULARY, LONGEST = TINY["vocab_size"], TINY["max_position_embeddings"]
HEADS, CLASS_IDS = TINY["num_attention_heads"], torch.tensor([0, 1, 0, 1])
BY_KIND = pytest.mark.parametrize("kind", list(CLASSES))
BY_HEAD = pytest.mark.parametrize("kind", ["masked_lm", "classifier"])
BY_TRAINING = pytest.mark.parametrize("training", [False, True])
BY_BACKEND = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def close(ours, stock):
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)


def stock_committee(count=2, seed=0, temperature=1.3, combination="probabilities", **fields):
    """A committee of stock BERTs with other weights each, and the BERTs."""
    fields = {**TINY, "num_labels": 3, **fields}
    stocks = [BertForSequenceClassification(BertConfig(**fields)).eval() for _ in range(count)]
    for position, stock in enumerate(stocks):
        randomise(stock, seed + position)
    return CommitteeForSequenceClassification.from_members(stocks, temperature, combination), stocks


def plain_batch(seed=0, rows=3, length=10):
    """Inputs of which text 1 is padded on the right, and labels of a masked language model."""
    rng = np.random.default_rng(seed)
    mask = np.ones((rows, length), dtype=np.int64)
    mask[1, length - 4 :] = 0
    ids = rng.integers(1, VOCABULARY, (rows, length)) * mask
    labels = np.where((rng.random((rows, length)) < 0.3) & (mask == 1), ids, -100)
    labels[0, 1] = 7
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}, torch.tensor(labels)


def labels_for(kind, labels):
    return {"encoder": {}, "masked_lm": {"labels": labels}, "classifier": {"labels": CLASS_IDS[: len(labels)]}}[kind]


def scalar(output):
    """The loss; for an encoder, some number that depends on all of its outputs."""
    if "loss" in output:
        return output.loss
    states = output.last_hidden_state
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1)).to(states.dtype)
    return (states * weights).sum() + output.pooler_output.sum()


def compare_gradients(ours, stock, tolerance=1e-5):
    """Of models, or of the gradients by name that one had in another process."""
    if not isinstance(ours, dict):
        ours = {name: parameter.grad for name, parameter in ours.named_parameters()}
    gradients, expected = ours, {name: parameter.grad for name, parameter in stock.named_parameters()}
    assert expected.keys() == gradients.keys()
    present = {name for name, gradient in expected.items() if gradient is not None}
    assert present == {name for name, gradient in gradients.items() if gradient is not None} != set()
    largest = max(float(expected[name].abs().max()) for name in present)
    assert largest > 0
    for name in present:
        difference = float((gradients[name] - expected[name]).abs().max())
        assert difference <= tolerance * largest, (name, difference, largest)


def check_equal(kind, pair, inputs, labels, training=True):
    """Outputs and gradients of ours are stock's. Returns our output."""
    ours, stock = (model.train(training) for model in pair)
    targets = labels_for(kind, labels)
    expected, output = stock(**inputs, **targets), ours(**inputs, **targets)
    close(scalar(output), scalar(expected))
    if kind != "encoder":
        close(output.logits, expected.logits[labels != -100] if kind == "masked_lm" and training else expected.logits)
    for model, result in ((stock, expected), (ours, output)):
        model.zero_grad()
        scalar(result).backward()
    compare_gradients(ours, stock)
    return output


@contextmanager
def watched():
    """Shapes of the query states of every call of `absorbed_attention`: what a fast path saves shows in no output."""
    shapes, real = [], layers_tlm.absorbed_attention

    def watch(attention, query_states, *rest, **options):
        shapes.append(tuple(query_states.shape))
        return real(attention, query_states, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers_tlm, "absorbed_attention", watch)
        yield shapes
