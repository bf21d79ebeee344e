"""Our encoder and its heads against stock BERT on the same weights, with dropout 0.

Oracle: `transformers.BertModel`, `BertForMaskedLM` and `BertForSequenceClassification`.
"""

import re

import numpy as np
import pytest
import torch
from conftest import refusal
from helpers_models import (
    BY_BACKEND,
    BY_KIND,
    BY_TRAINING,
    LONGEST,
    VOCABULARY,
    check_equal,
    close,
    compare_gradients,
    labels_for,
    plain_batch,
)
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, Trainer, TrainingArguments

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForMaskedLM, TLMForSequenceClassification


@st.composite
def batches(draw):
    """Random inputs: lengths, padding on either side or holes, now and then own position ids and token types."""
    rows, length = draw(st.integers(1, 4)), draw(st.integers(2, LONGEST))
    padding = draw(st.sampled_from(["none", "right", "left", "holes"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    mask = np.ones((rows, length), dtype=np.int64)
    for row in mask:
        tokens = rng.integers(1, length + 1)
        if padding == "right":
            row[tokens:] = 0
        elif padding == "left":
            row[: length - tokens] = 0
        elif padding == "holes":
            row[rng.random(length) < 0.4] = 0
            row[rng.integers(length)] = 1
    batch = {"input_ids": rng.integers(1, VOCABULARY, (rows, length)) * mask}
    if padding != "none" or draw(st.booleans()):
        batch["attention_mask"] = mask
    if draw(st.booleans()):
        batch["token_type_ids"] = rng.integers(0, 2, (rows, length))
    if draw(st.booleans()):
        batch["position_ids"] = rng.integers(0, LONGEST, (rows, length))
    labels = np.where((rng.random((rows, length)) < 0.3) & (mask == 1), rng.integers(0, VOCABULARY, mask.shape), -100)
    labels[rng.integers(rows), np.flatnonzero(mask[0])[0]] = 5  # at least one, perhaps on padding
    return {name: torch.tensor(array) for name, array in batch.items()}, torch.tensor(labels)


@BY_KIND
@BY_BACKEND
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("fast", [True, False])
@given(batch=batches())
def test_every_head_equals_stock(build_pair, kind, layers, attention, fast, batch):
    pair = build_pair(kind, num_hidden_layers=layers, attention=attention, fast=fast)
    for training in (False, True):
        check_equal(kind, pair, *batch, training)


@BY_KIND
@BY_TRAINING
def test_hidden_states_and_attentions_are_stock(build_pair, kind, training):
    inputs, labels = plain_batch()
    ours, stock = build_pair(kind, num_hidden_layers=2, attention="eager")
    inputs |= labels_for(kind, labels)
    asked = {"output_hidden_states": True, "output_attentions": True}
    expected, output = stock.train(training)(**inputs, **asked), ours.train(training)(**inputs, **asked)
    for name, count in (("hidden_states", 3), ("attentions", 2)):
        assert len(output[name]) == len(expected[name]) == count
        for one, other in zip(output[name], expected[name], strict=True):
            close(one, other)
    if kind != "encoder":
        close(output.loss, expected.loss)
        as_tuple = ours(**inputs, return_dict=False)
        assert isinstance(as_tuple, tuple)
        close(as_tuple[0], expected.loss)
    ours.config.output_hidden_states = True  # the same by configuration
    close(ours(**inputs).hidden_states[-1], expected.hidden_states[-1])


@BY_KIND
@BY_BACKEND
@BY_TRAINING
def test_embeddings_as_input_and_4d_mask_are_stock(build_pair, kind, attention, training):
    inputs, labels = plain_batch()
    pair = build_pair(kind, num_hidden_layers=2, attention=attention)
    embeds = torch.randn(3, 10, pair[0].config.hidden_size, generator=torch.Generator().manual_seed(3))
    allowed = torch.tensor(np.random.default_rng(4).random((3, 1, 10, 10)) < 0.6) | torch.eye(10, dtype=torch.bool)
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    for changed in (
        {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]},
        {"input_ids": inputs["input_ids"], "attention_mask": additive},
    ):
        check_equal(kind, pair, changed, labels, training)


@pytest.mark.parametrize("fast", [True, False])
@BY_TRAINING
def test_the_scored_positions_can_be_chosen(build_pair, fast, training):
    inputs, labels = plain_batch()
    ours, stock = build_pair("masked_lm", num_hidden_layers=2, fast=fast)
    ours.train(training)
    expected = stock(**inputs, labels=labels)
    full = ours(**inputs, labels=labels, sparse_prediction=False)
    sparse = ours(**inputs, labels=labels, sparse_prediction=True)
    close(full.logits, expected.logits)
    close(sparse.logits, expected.logits[labels != -100])
    close(full.loss, expected.loss)
    close(sparse.loss, expected.loss)
    close(ours(**inputs, sparse_prediction=True).logits, expected.logits)  # without labels there is nothing to choose


@pytest.mark.parametrize(
    ("problem", "num_labels", "labels"),
    [
        ("regression", 1, torch.tensor([0.5, -1.0, 2.0])),
        ("regression", 3, torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.2, 0.3], [1.0, 0.0, 3.0]])),
        ("multi_label_classification", 3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])),
        ("single_label_classification", 3, torch.tensor([2, 0, 1])),
        (None, 1, torch.tensor([0.5, -1.0, 2.0])),
        (None, 3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])),
    ],
)
def test_problem_types_are_stock(build_pair, problem, num_labels, labels):
    inputs, _ = plain_batch()
    ours, stock = build_pair("classifier", num_labels=num_labels, problem_type=problem)
    losses = [model.train()(**inputs, labels=labels).loss for model in (ours, stock)]
    close(*losses)
    assert ours.config.problem_type == stock.config.problem_type
    for loss in losses:
        loss.backward()
    compare_gradients(ours, stock)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", ["masked_lm", "classifier", "regression", "multi_label_classification", "committee"])
def test_accumulated_step_is_the_whole_batch_step(build_pair, tmp_path, kind, accumulation):
    """One SGD step by `transformers.Trainer` (plain SGD shows the scale of the gradient; Adam would hide it)."""
    inputs, labels = plain_batch(seed=5, rows=8)
    fields = {"problem_type": kind, "num_labels": 2} if kind.startswith(("regression", "multi")) else {}
    if kind != "masked_lm":
        labels = torch.tensor(np.random.default_rng(0).integers(0, 2, (8, 2) if fields else 8))
        labels = labels.float() if fields else labels
    head = "masked_lm" if kind == "masked_lm" else "classifier"
    pairs = [build_pair(head, seed=seed, **fields) for seed in range(2 if kind == "committee" else 1)]
    model = pairs[0][0]
    if kind == "committee":
        model = CommitteeForSequenceClassification.from_members([ours for ours, _ in pairs])
    rows = [{**{name: value[row] for name, value in inputs.items()}, "labels": labels[row]} for row in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=8 // accumulation, optim="sgd",
        gradient_accumulation_steps=accumulation, learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0.0,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows).train()
    for ours, stock in pairs:
        stock.train()(**inputs, labels=labels).loss.backward()
        for name, value in stock.named_parameters():
            close(ours.get_parameter(name).detach(), value.detach() - 0.1 * value.grad)
        learnt = stock.bert.encoder.layer[0].output.dense.weight.grad
        assert float(learnt.abs().max()) > 1e-3


@pytest.mark.parametrize("fast", [True, False])
def test_nothing_to_predict_is_stock(build_pair, fast):
    inputs, labels = plain_batch()
    for model in build_pair("masked_lm", fast=fast):
        loss = model.train()(**inputs, labels=torch.full_like(labels, -100)).loss
        loss.backward()
        assert loss.isnan()
        assert fast is False or not any(p.grad.any() for p in model.parameters() if p.grad is not None)


@BY_KIND
def test_bad_inputs_raise_one_sentence(build_pair, kind):
    ours, _ = build_pair(kind)
    said = refusal(ours, torch.ones((1, LONGEST + 1), dtype=torch.long), error=ValueError)
    assert re.search(r"17 tokens .*16.*max_length=16", said)
    for inputs in ({}, {"input_ids": torch.ones((1, 4), dtype=torch.long), "inputs_embeds": torch.zeros((1, 4, 24))}):
        assert "exactly one of input_ids and inputs_embeds" in refusal(ours, **inputs, error=ValueError)


@pytest.mark.parametrize(
    ("ours_class", "stock_class"),
    [(TLMForMaskedLM, BertForMaskedLM), (TLMForSequenceClassification, BertForSequenceClassification)],
)
def test_new_weights_are_stock_shaped_and_stock_scaled(ours_class, stock_class):
    """Same names, shapes and spread as a new stock BERT: normal(0, initializer_range), biases 0, LayerNorms 1."""
    fields = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    fields |= {"initializer_range": 0.09, "intermediate_size": 256, "max_position_embeddings": 64}
    torch.manual_seed(0)
    ours, stock = ours_class(TLMConfig(**fields)).state_dict(), stock_class(BertConfig(**fields)).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in stock.items()}
    for name, value in stock.items():
        if value.min() == value.max():
            close(ours[name], value)
        elif value.numel() >= 4096:
            assert float(ours[name].std()) == pytest.approx(float(value.std()), rel=0.05), name


def test_a_replaced_decoder_is_stock(build_pair):
    ours, stock = build_pair("masked_lm")
    ids = torch.arange(VOCABULARY)[None, :LONGEST]
    replaced = torch.nn.Linear(ours.config.hidden_size, VOCABULARY)
    for model in (ours, stock):
        model.set_output_embeddings(replaced)
        assert model.get_output_embeddings() is replaced
        assert model.cls.predictions.bias is replaced.bias
    close(ours(ids).logits, stock(ids).logits)


@pytest.mark.parametrize("kind", ["masked_lm", "classifier"])
def test_training_under_bfloat16_autocast(build_pair, kind):
    inputs, labels = plain_batch()
    ours, stock = build_pair(kind, num_hidden_layers=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [model.train()(**inputs, **labels_for(kind, labels)).loss for model in (ours, stock)]
    torch.testing.assert_close(losses[0].float(), losses[1].float(), atol=2e-2, rtol=2e-2)
    for loss in losses:
        loss.backward()
    compare_gradients(ours, stock, tolerance=5e-2)
