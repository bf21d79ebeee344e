"""Our encoder and its heads against stock BERT on the same weights, with dropout 0.

Oracle: `transformers.BertModel`, `BertForMaskedLM` and `BertForSequenceClassification`. Values agree to atol 1e-5 +
rtol 1e-5; gradients to 1e-5 of the largest entry of all gradients (the true gradient of the key biases is 0, so an
entry's own size is no measure).
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, Trainer, TrainingArguments

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForMaskedLM, TLMForSequenceClassification

VARIANTS = pytest.mark.parametrize(
    ("layers", "attention", "fast"),
    [(layers, attention, fast) for layers in (1, 2) for attention in ("eager", "sdpa") for fast in (True, False)],
)
VOCABULARY, LONGEST = 60, 16


def close(ours, stock):
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)


@st.composite
def batches(draw):
    """Random inputs: lengths, padding on either side or holes, now and then own position ids and token types."""
    rows, length = draw(st.integers(1, 4)), draw(st.integers(2, LONGEST))
    padding = draw(st.sampled_from(["none", "right", "left", "holes"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    mask = np.ones((rows, length), dtype=np.int64)
    for row in mask:
        kept = rng.integers(1, length + 1)
        if padding == "right":
            row[kept:] = 0
        elif padding == "left":
            row[: length - kept] = 0
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


def plain_batch(seed=0, rows=3, length=10):
    rng = np.random.default_rng(seed)
    mask = np.ones((rows, length), dtype=np.int64)
    mask[1, length - 4 :] = 0
    ids = rng.integers(1, VOCABULARY, (rows, length)) * mask
    labels = np.where((rng.random((rows, length)) < 0.3) & (mask == 1), ids, -100)
    labels[0, 1] = 7
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}, torch.tensor(labels)


def compare_gradients(ours, stock, tolerance=1e-5):
    expected = {name: parameter.grad for name, parameter in stock.named_parameters()}
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert expected.keys() == found.keys()
    assert {name for name in expected if expected[name] is None} == {name for name in found if found[name] is None}
    present = [name for name in expected if expected[name] is not None]
    assert present
    largest = max(float(expected[name].abs().max()) for name in present)
    assert largest > 0
    for name in present:
        difference = float((found[name] - expected[name]).abs().max())
        assert difference <= tolerance * largest, (name, difference, largest)


@VARIANTS
@given(batch=batches())
def test_masked_lm_equals_stock(build_pair, layers, attention, fast, batch):
    inputs, labels = batch
    ours, stock = build_pair("masked_lm", num_hidden_layers=layers, attention=attention, fast=fast)
    with torch.no_grad():
        expected, found = stock(**inputs, labels=labels), ours(**inputs, labels=labels)
    close(found.logits, expected.logits)  # evaluation mode: every position is scored
    close(found.loss, expected.loss)
    expected, found = stock.train()(**inputs, labels=labels), ours.train()(**inputs, labels=labels)
    close(found.loss, expected.loss)
    close(found.logits, expected.logits[labels != -100])  # training: the labelled positions alone
    expected.loss.backward()
    found.loss.backward()
    compare_gradients(ours, stock)


@VARIANTS
@given(batch=batches())
def test_classifier_equals_stock(build_pair, layers, attention, fast, batch):
    inputs, _ = batch
    labels = torch.arange(len(inputs["input_ids"])) % 3
    ours, stock = build_pair("classifier", num_hidden_layers=layers, attention=attention, fast=fast, num_labels=3)
    for mode in (False, True):
        expected = stock.train(mode)(**inputs, labels=labels)
        found = ours.train(mode)(**inputs, labels=labels)
        close(found.logits, expected.logits)
        close(found.loss, expected.loss)
    expected.loss.backward()
    found.loss.backward()
    compare_gradients(ours, stock)


@VARIANTS
@given(batch=batches())
def test_encoder_equals_stock(build_pair, layers, attention, fast, batch):
    inputs, _ = batch
    ours, stock = build_pair("encoder", num_hidden_layers=layers, attention=attention, fast=fast)
    expected, found = stock(**inputs), ours(**inputs)
    close(found.last_hidden_state, expected.last_hidden_state)
    close(found.pooler_output, expected.pooler_output)
    weights = torch.randn(expected.last_hidden_state.shape, generator=torch.Generator().manual_seed(1))
    for output in (expected, found):
        ((output.last_hidden_state * weights).sum() + output.pooler_output.sum()).backward()
    compare_gradients(ours, stock)


@pytest.mark.parametrize("kind", ["encoder", "masked_lm", "classifier"])
@pytest.mark.parametrize("training", [False, True])
def test_hidden_states_and_attentions_are_stock(build_pair, kind, training):
    inputs, labels = plain_batch()
    ours, stock = build_pair(kind, num_hidden_layers=2, attention="eager")
    if kind != "encoder":
        inputs["labels"] = labels if kind == "masked_lm" else torch.tensor([0, 1, 0])
    wanted = {"output_hidden_states": True, "output_attentions": True}
    expected, found = stock.train(training)(**inputs, **wanted), ours.train(training)(**inputs, **wanted)
    for name, count in (("hidden_states", 3), ("attentions", 2)):
        assert len(found[name]) == len(expected[name]) == count
        for one, other in zip(found[name], expected[name], strict=True):
            close(one, other)
    if kind != "encoder":
        close(found.loss, expected.loss)
        tuple_output = ours(**inputs, return_dict=False)
        assert isinstance(tuple_output, tuple)
        close(tuple_output[0], expected.loss)
    # The same by configuration instead of by argument.
    ours.config.output_hidden_states = True
    by_config = ours(**inputs)
    assert len(by_config.hidden_states) == 3
    close(by_config.hidden_states[-1], expected.hidden_states[-1])


@pytest.mark.parametrize("kind", ["encoder", "masked_lm", "classifier"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_embeddings_as_input_and_4d_mask_are_stock(build_pair, kind, attention):
    inputs, labels = plain_batch()
    ours, stock = build_pair(kind, num_hidden_layers=2, attention=attention)
    if kind != "encoder":
        labels = labels if kind == "masked_lm" else torch.tensor([0, 1, 0])
    extra = {} if kind == "encoder" else {"labels": labels}
    embeds = torch.randn(
        *inputs["input_ids"].shape, ours.config.hidden_size, generator=torch.Generator().manual_seed(3)
    )
    rng = np.random.default_rng(4)
    allowed = torch.tensor(rng.random((3, 1, 10, 10)) < 0.6) | torch.eye(10, dtype=torch.bool)
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    for changed in (
        {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]},
        {"input_ids": inputs["input_ids"], "attention_mask": additive},
    ):
        for training in (False, True):
            stock.zero_grad()
            ours.zero_grad()
            expected = stock.train(training)(**changed, **extra)
            found = ours.train(training)(**changed, **extra)
            if kind == "encoder":
                close(found.last_hidden_state, expected.last_hidden_state)
                continue
            close(found.loss, expected.loss)
            full = expected.logits
            close(found.logits, full[labels != -100] if kind == "masked_lm" and training else full)
            expected.loss.backward()
            found.loss.backward()
            compare_gradients(ours, stock)


@pytest.mark.parametrize("kind", ["masked_lm", "classifier"])
def test_activation_checkpointing_changes_nothing(build_pair, kind):
    inputs, labels = plain_batch()
    labels = labels if kind == "masked_lm" else torch.tensor([0, 1, 0])
    ours, stock = build_pair(kind, num_hidden_layers=2)
    ours.gradient_checkpointing_enable()  # the name that older releases know too
    assert ours.is_activation_checkpointing
    expected, found = stock.train()(**inputs, labels=labels), ours.train()(**inputs, labels=labels)
    close(found.loss, expected.loss)
    expected.loss.backward()
    found.loss.backward()
    compare_gradients(ours, stock)


def test_resized_vocabulary_stays_tied(build_pair, tmp_path):
    ours, _ = build_pair("masked_lm")
    ours.resize_token_embeddings(VOCABULARY + 5)
    ours.save_pretrained(tmp_path)
    for model in (ours, TLMForMaskedLM.from_pretrained(tmp_path)):
        assert model.config.vocab_size == VOCABULARY + 5
        assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
        assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
        assert model.cls.predictions.bias.shape == (VOCABULARY + 5,)
    stock = BertForMaskedLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(VOCABULARY - 5, VOCABULARY + 5)[None]
    close(ours(ids).logits, stock(ids).logits)
    replaced = torch.nn.Linear(ours.config.hidden_size, VOCABULARY + 5)
    for model in (ours, stock):
        model.set_output_embeddings(replaced)
        assert model.get_output_embeddings() is replaced
        assert model.cls.predictions.bias is replaced.bias
    close(ours(ids).logits, stock(ids).logits)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("training", [True, False])
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
    expected, found = stock.train()(**inputs, labels=labels), ours.train()(**inputs, labels=labels)
    close(found.loss, expected.loss)
    assert ours.config.problem_type == stock.config.problem_type
    expected.loss.backward()
    found.loss.backward()
    compare_gradients(ours, stock)


def train_one_step(model, rows, batch_size, accumulation, folder):
    """One SGD step by `transformers.Trainer` (plain SGD shows the scale of the gradient; Adam would hide it)."""
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=batch_size, optim="sgd", max_grad_norm=0.0,
        gradient_accumulation_steps=accumulation, learning_rate=0.1, lr_scheduler_type="constant", weight_decay=0.0,
        save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows).train()


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", ["masked_lm", "classifier", "regression", "multi_label_classification", "committee"])
def test_accumulated_step_is_the_whole_batch_step(build_pair, tmp_path, kind, accumulation):
    inputs, labels = plain_batch(seed=5, rows=8)
    fields = {"problem_type": kind, "num_labels": 2} if kind.startswith(("regression", "multi")) else {}
    if kind != "masked_lm":
        labels = torch.tensor(np.random.default_rng(0).integers(0, 2, 8))
    if fields:
        labels = torch.tensor(np.random.default_rng(0).integers(0, 2, (8, 2)), dtype=torch.float32)
    pairs = [
        build_pair("masked_lm" if kind == "masked_lm" else "classifier", seed=seed, **fields)
        for seed in range(2 if kind == "committee" else 1)
    ]
    model = pairs[0][0]
    if kind == "committee":
        model = CommitteeForSequenceClassification.from_members([ours for ours, _ in pairs])
    rows = [{**{name: value[row] for name, value in inputs.items()}, "labels": labels[row]} for row in range(8)]
    train_one_step(model, rows, 8 // accumulation, accumulation, tmp_path)
    for ours, stock in pairs:
        stock.train()(**inputs, labels=labels).loss.backward()
        stepped = {name: value.detach() - 0.1 * value.grad for name, value in stock.named_parameters()}
        for name, parameter in ours.named_parameters():
            close(parameter.detach(), stepped[name])
            if name == "bert.encoder.layer.0.output.dense.weight":
                assert (
                    float((stock.get_parameter(name) - parameter).detach().abs().max()) > 1e-4
                )  # something was learnt


def test_shortcut_computes_less_than_half_of_stock(build_pair):
    """The promise of the fast path, counted in floating point operations rather than in seconds."""
    fields = {"vocab_size": 2000, "hidden_size": 48, "intermediate_size": 192, "max_position_embeddings": 64}
    ids = torch.randint(1, 2000, (4, 64), generator=torch.Generator().manual_seed(0))
    masked = torch.where(torch.arange(64) % 7 == 1, ids, -100)
    for kind, labels, share in (("masked_lm", masked, 0.3), ("classifier", torch.tensor([0, 1, 0, 1]), 0.35)):
        counts = []
        for model in build_pair(kind, **fields):
            with FlopCounterMode(display=False) as counter:
                model.train()(ids, labels=labels).loss.backward()
            counts.append(counter.get_total_flops())
        assert counts[0] < share * counts[1], (kind, counts)


@pytest.mark.parametrize("kind", ["masked_lm", "classifier"])
def test_training_under_bfloat16_autocast(build_pair, kind):
    inputs, labels = plain_batch()
    labels = labels if kind == "masked_lm" else torch.tensor([0, 1, 0])
    ours, stock = build_pair(kind, num_hidden_layers=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = stock.train()(**inputs, labels=labels), ours.train()(**inputs, labels=labels)
    torch.testing.assert_close(found.loss.float(), expected.loss.float(), atol=2e-2, rtol=2e-2)
    expected.loss.backward()
    found.loss.backward()
    compare_gradients(ours, stock, tolerance=5e-2)


@pytest.mark.parametrize("fast", [True, False])
def test_nothing_to_predict_is_stock(build_pair, fast):
    inputs, labels = plain_batch()
    ours, stock = build_pair("masked_lm", fast=fast)
    empty = torch.full_like(labels, -100)
    assert torch.isnan(stock.train()(**inputs, labels=empty).loss)
    assert torch.isnan(ours.train()(**inputs, labels=empty).loss)


@pytest.mark.parametrize("kind", ["encoder", "masked_lm", "classifier"])
def test_bad_inputs_raise_one_sentence(build_pair, one_sentence, kind):
    ours, _ = build_pair(kind)
    with pytest.raises(ValueError, match=r"17 tokens .*16.*max_length=16") as caught:
        ours(torch.ones((1, LONGEST + 1), dtype=torch.long))
    one_sentence(caught.value)
    for inputs in ({}, {"input_ids": torch.ones((1, 4), dtype=torch.long), "inputs_embeds": torch.zeros((1, 4, 24))}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds") as caught:
            ours(**inputs)
        one_sentence(caught.value)


def test_new_weights_are_stock_shaped_and_stock_scaled():
    """Same names, shapes and spread as a new stock BERT: normal(0, initializer_range), biases 0, LayerNorms 1."""
    fields = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    fields |= {"initializer_range": 0.09, "intermediate_size": 256, "max_position_embeddings": 64}
    for ours_class, stock_class in (
        (TLMForMaskedLM, BertForMaskedLM),
        (TLMForSequenceClassification, BertForSequenceClassification),
    ):
        torch.manual_seed(0)
        ours, stock = ours_class(TLMConfig(**fields)).state_dict(), stock_class(BertConfig(**fields)).state_dict()
        assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in stock.items()}
        for name, value in stock.items():
            if value.min() == value.max():
                close(ours[name], value)
            elif value.numel() >= 4096:
                assert float(ours[name].std()) == pytest.approx(float(value.std()), rel=0.05), name
