"""What may stand around or inside a model so that a fast path must step aside; oracle: stock BERT, treated alike."""

import pytest
import torch
from test_modeling import VOCABULARY, close, plain_batch
from torch import nn


@pytest.mark.parametrize("place", ["cls", "cls.predictions"])
def test_a_hook_on_the_head_is_called(build_pair, place):
    inputs, labels = plain_batch()
    losses = []
    for model in build_pair("masked_lm"):
        model.get_submodule(place).register_forward_hook(lambda module, arguments, output: output * 2)
        losses.append(model.train()(**inputs, labels=labels).loss)
    close(*losses)


@pytest.mark.parametrize("place", ["embeddings", "embeddings.word_embeddings", "embeddings.LayerNorm", "layer"])
def test_texts_that_start_alike_but_are_changed_apart_ask_apart(build_pair, place):
    inputs, _ = plain_batch()
    inputs["input_ids"][:, 0] = 3
    noise = torch.randn(3, 10, 24, generator=torch.Generator().manual_seed(9))
    logits = []
    for model in build_pair("classifier"):
        module = model.bert.encoder.layer[0] if place == "layer" else model.bert.get_submodule(place)
        if place == "layer":
            module.register_forward_pre_hook(lambda module, arguments: (arguments[0] + noise, *arguments[1:]))
        else:
            module.register_forward_hook(lambda module, arguments, output: output + noise)
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    close(*logits)


def test_gradients_of_equal_first_embeddings_are_each_texts_own(build_pair):
    inputs, _ = plain_batch()
    found = []
    for model in build_pair("classifier"):
        embeds = model.bert.embeddings.word_embeddings(torch.full_like(inputs["input_ids"], 3)).detach()
        embeds.requires_grad_()
        weights = torch.arange(6.0).view(3, 2)
        (model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits * weights).sum().backward()
        found.append(embeds.grad)
    close(*found)


def test_a_decoder_without_bias_trains(build_pair):
    inputs, labels = plain_batch()
    losses = []
    for model in build_pair("masked_lm"):
        decoder = nn.Linear(24, VOCABULARY, bias=False)
        with torch.no_grad():
            decoder.weight.copy_(torch.randn(VOCABULARY, 24, generator=torch.Generator().manual_seed(2)))
        model.cls.predictions.decoder = decoder
        losses.append(model.train()(**inputs, labels=labels).loss)
    close(*losses)


def test_a_batch_without_labels_gives_gradients_of_zero(build_pair):
    inputs, labels = plain_batch()
    for model in build_pair("masked_lm"):
        loss = model.train()(**inputs, labels=torch.full_like(labels, -100)).loss
        loss.backward()
        assert loss.isnan()
        assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)
