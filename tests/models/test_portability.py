"""Attention backends, dropout, and the conditions of every fast path; oracle: stock BERT, or plain torch."""

import pytest
import torch
import torch.nn.functional as F
from conftest import CLASSES
from helpers_models import (
    BY_BACKEND,
    BY_KIND,
    BY_TRAINING,
    HEADS,
    VOCABULARY,
    check_equal,
    close,
    compare_gradients,
    plain_batch,
    watched,
)
from torch import nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tlm_hf import TLMConfig
from tlm_hf.models.fast_paths_tlm import TLMDropout


@BY_KIND
@BY_TRAINING
def test_another_backend_gets_every_layer_in_full(build_pair, monkeypatch, kind, training):
    shapes = []

    def sharper(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        shapes.append((query.shape[2], key.shape[2], value.shape[2]))
        scores = (2 * scaling * query @ key.transpose(2, 3)).masked_fill(~attention_mask, -1e9)
        return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sharper", sharper)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "sharper", sdpa_mask)
    pair, (inputs, labels) = build_pair(kind, num_hidden_layers=2, attention="sharper"), plain_batch()
    with watched() as absorbed:
        check_equal(kind, pair, inputs, labels, training)
    assert shapes == [(10, 10, 10)] * 4  # two layers of either model
    assert not absorbed


@BY_KIND
@BY_TRAINING
@BY_BACKEND
@pytest.mark.parametrize("layers", [1, 2])
def test_a_text_of_nothing_but_padding_is_stock(build_pair, kind, training, attention, layers):
    inputs, labels = plain_batch()
    inputs["attention_mask"][1] = 0
    labels[1, 2] = 8
    check_equal(kind, build_pair(kind, num_hidden_layers=layers, attention=attention), inputs, labels, training)


@pytest.mark.parametrize("kind", ["masked_lm", "classifier"])
def test_attention_dropout_scales_the_value_bias(build_pair, monkeypatch, kind):
    """Dropped weights do not sum to 1: the same weights dropped in stock BERT (by head and key) give its gradients."""
    inputs, labels = plain_batch()
    fields = {"attention_probs_dropout_prob": 0.4, "attention": "eager"}
    pair = build_pair(kind, **fields)
    kept = (torch.rand(HEADS, 10, generator=torch.Generator().manual_seed(0)) > 0.4) / 0.6
    assert 0 < int((kept == 0).sum()) < kept.numel()

    def drop_ours(module, states):  # (..., heads, sequence)
        return states * kept if module.p else states

    def drop_stock(states, p=0.5, training=True, inplace=False):  # (batch, heads, sequence, sequence)
        return states * kept[:, None] if p else states

    monkeypatch.setattr(TLMDropout, "forward", drop_ours)
    monkeypatch.setattr(F, "dropout", drop_stock)
    for model in pair:
        model.dropout = nn.Identity()  # the classifier's own
    with watched() as shapes:
        check_equal(kind, pair, inputs, labels)
    assert len(shapes) == 1


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sixteen_bit_dropout_is_dropout(probability, dtype):
    count = 400_003  # not divisible by 4
    torch.manual_seed(7)
    states = torch.full((count,), 3.0, dtype=dtype, requires_grad=True)
    dropout = TLMDropout(probability, TLMConfig())
    dropped = dropout(states)
    assert dropped.dtype == dtype
    zero = (dropped == 0).double().numpy()
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert abs(zero.mean() - probability) < 5 * deviation + 2**-17
    # The expectation is exact: scale times the share that the rounded probability keeps.
    scale = torch.tensor(65536 / (65536 - round(probability * 65536)), dtype=dtype)
    assert set(dropped.unique().tolist()) == {0.0, float(scale * 3)}
    centred = (zero - zero.mean()) / zero.std()
    for lag in range(1, 9):
        assert abs((centred[lag:] * centred[:-lag]).mean()) < 5 / count**0.5, lag
    dropped.sum().backward()
    assert torch.equal(states.grad, (dropped != 0) * scale)
    for seed, same in ((7, True), (8, False)):
        torch.manual_seed(seed)
        assert torch.equal(dropout(states), dropped) is same


@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.3, 1 - 1e-9, 1.0])
@BY_TRAINING
def test_dropout_at_its_ends_and_switched_off_is_torchs(build_pair, probability, training):
    config, states = build_pair("encoder", fast=False)[0].config, torch.ones(50, 7)
    torch.manual_seed(3)
    expected = F.dropout(states, probability, training)
    torch.manual_seed(3)
    assert torch.equal(TLMDropout(probability, config).train(training)(states), expected)
    config.use_fast_path = True
    found = TLMDropout(probability, config).train(training)(states)
    assert torch.equal(found, expected) == (not training or probability != 0.3)


def smoothed(logits, labels, vocab_size, **kwargs):
    return F.cross_entropy(logits.view(-1, vocab_size), labels.view(-1), label_smoothing=0.3)


@pytest.mark.parametrize(
    "case", ["smoothed", "tripled", "with logits", "logits alone", "twice", "untied", "autograd.grad"]
)
def test_the_loss_may_be_used_as_stock_bert_s(build_pair, case):
    inputs, labels = plain_batch()
    ours, stock = build_pair("masked_lm", tie_word_embeddings=case != "untied")
    gradients = []
    for model in (ours.train(), stock.train()):
        if case == "smoothed" and model is ours:
            model.loss_function = smoothed
        for _ in range(2 if case == "twice" else 1):
            output = model(**inputs, labels=labels)
            logits = output.logits[labels != -100] if model is stock else output.logits
            logit_loss = logits.square().mean() + logits[:, 3].sum()
            loss = {"with logits": output.loss + logit_loss, "logits alone": logit_loss}.get(case, output.loss)
            if case == "smoothed" and model is stock:  # whose own loss cannot be replaced
                loss = smoothed(output.logits, labels, VOCABULARY)
            words = model.bert.embeddings.word_embeddings.weight
            if case == "autograd.grad":
                gradients.append(torch.autograd.grad(loss, [words, model.cls.predictions.bias], retain_graph=True)[0])
            (loss * 3 if case == "tripled" else loss).backward()
    compare_gradients(ours, stock)
    if gradients:
        close(*gradients)


@pytest.mark.parametrize(
    "frozen",
    ["bert", "bert.embeddings", "bert.embeddings.word_embeddings", "bert.encoder", "cls.predictions.transform"],
)
@pytest.mark.parametrize("tied", [True, False])
def test_frozen_parts_get_no_gradient_and_the_rest_stock_s(build_pair, frozen, tied):
    pair = build_pair("masked_lm", num_hidden_layers=2, tie_word_embeddings=tied)
    for model in pair:
        model.get_submodule(frozen).requires_grad_(False)
    check_equal("masked_lm", pair, *plain_batch())


def test_second_derivatives_are_stock_s_or_refused(build_pair):
    """As a gradient penalty or a Hessian-based optimizer takes them; without the fast path they are stock's."""
    inputs, labels = plain_batch()

    def penalty(model):
        weight = model.bert.encoder.layer[0].attention.self.query.weight
        loss = model.train()(**inputs, labels=labels).loss
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weight)[0]

    ours, stock = build_pair("masked_lm", attention="eager")  # sdpa has no second derivatives
    with pytest.raises(NotImplementedError, match="use_fast_path"):
        penalty(ours)
    ours.config.use_fast_path = False
    close(penalty(ours), penalty(stock))


@BY_KIND
@pytest.mark.parametrize("size", [VOCABULARY - 9, VOCABULARY + 5])
def test_a_resized_vocabulary_is_stock(build_pair, tmp_path, kind, size):
    inputs, labels = plain_batch()
    common = min(size, VOCABULARY)
    inputs["input_ids"], labels = inputs["input_ids"].clamp(max=common - 1), labels.clamp(max=common - 1)
    ours, original = build_pair(kind, num_hidden_layers=2)
    ours.resize_token_embeddings(size)
    assert ours.config.vocab_size == ours.get_input_embeddings().num_embeddings == size
    name = "last_hidden_state" if kind == "encoder" else "logits"
    resized, expected = ours(**inputs)[name], original(**inputs)[name]
    close(*((resized[..., :common], expected[..., :common]) if kind == "masked_lm" else (resized, expected)))
    if kind == "masked_lm":
        assert ours.cls.predictions.decoder.weight is ours.get_input_embeddings().weight
    ours.save_pretrained(tmp_path)
    inputs["input_ids"][0, 2] = size - 1  # a new token
    check_equal(kind, (ours, CLASSES[kind][1].from_pretrained(tmp_path)), inputs, labels)
