"""Half precision, activation checkpointing and torch.compile (`test_export` has torch.export).

Oracle: stock BERT in float32, run eagerly; for a convolution the uncompiled model. `fullgraph=True` refuses breaks.
"""

import copy
import shutil

import pytest
import torch
from conftest import CLASSES
from helpers_models import BY_BACKEND, BY_KIND, CLASS_IDS, close, compare_gradients, labels_for, plain_batch, scalar
from test_convolution import build_model

from tlm_hf import CommitteeForSequenceClassification, TLMForSequenceClassification

KERNELS = [[3, 3], [3, 3]]
BY_LAYERS_AND_BACKEND = pytest.mark.parametrize(("layers", "attention"), [(1, "eager"), (2, "sdpa")])
NEEDS_COMPILER = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _no_graph_of_another_test():
    torch._dynamo.reset()


def check_step(compiled, ours, stock, inputs, labels):
    expected, found = stock.train()(**inputs, labels=labels).loss, compiled(**inputs, labels=labels).loss
    close(found, expected)
    for model, loss in ((stock, expected), (ours, found)):
        model.zero_grad()
        loss.backward()
    compare_gradients(ours, stock)


@BY_KIND
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fast", [True, False])
def test_loading_in_half_precision(build_pair, tmp_path, kind, dtype, fast):
    inputs, labels = plain_batch()
    _, stock = build_pair(kind, num_hidden_layers=2)
    stock.save_pretrained(tmp_path)
    ours = CLASSES[kind][0].from_pretrained(tmp_path, dtype=dtype, use_fast_path=fast)
    assert ours.config.use_fast_path is fast
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    name, rounding = "last_hidden_state" if kind == "encoder" else "logits", torch.finfo(dtype).eps
    with torch.no_grad():
        found, expected = ours(**inputs)[name], stock(**inputs)[name]
    assert found.dtype == dtype
    assert float((found - expected).abs().max()) <= 5 * rounding * float(expected.abs().max())
    if dtype == torch.float16:  # for inference
        return
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-2)
    found, expected = (scalar(model.train()(**inputs, **labels_for(kind, labels))) for model in (ours, stock))
    assert abs(found.item() - expected.item()) <= 5 * rounding * abs(expected.item())
    found.backward()
    expected.backward()
    compare_gradients(ours, stock, tolerance=10 * rounding)
    before = ours.bert.encoder.layer[1].output.dense.weight.clone() if kind != "encoder" else None
    optimizer.step()
    assert all(parameter.isfinite().all() and parameter.dtype == dtype for parameter in ours.parameters())
    assert before is None or not torch.equal(before, ours.bert.encoder.layer[1].output.dense.weight)


@pytest.mark.parametrize("reentrant", [True, False])
@BY_BACKEND
@pytest.mark.parametrize("kind", ["masked_lm", "classifier", "committee"])
@pytest.mark.filterwarnings("ignore:.*use_reentrant.*")
def test_checkpointing_draws_the_same_dropout(build_pair, kind, attention, reentrant):
    inputs, labels = plain_batch()
    fields = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "num_hidden_layers": 2}
    losses, gradients = [], []
    for checkpointing in (False, True):
        model, _ = build_pair("masked_lm" if kind == "masked_lm" else "classifier", attention=attention, **fields)
        if kind == "committee":
            model = CommitteeForSequenceClassification.from_members([model])
        if checkpointing:
            # transformers below 5.23 knows only the older name, which later versions warn of.
            newer = hasattr(model, "activation_checkpointing_enable")
            enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
        torch.manual_seed(5)
        loss = model.train()(**inputs, labels=labels if kind == "masked_lm" else CLASS_IDS[:3]).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    close(*losses)
    for name, gradient in gradients[0].items():
        assert (gradient is None) == (gradients[1][name] is None), name
        if gradient is not None:
            close(gradients[1][name], gradient)


@BY_LAYERS_AND_BACKEND
def test_compiled_classifier(build_pair, layers, attention):
    ours, stock = build_pair("classifier", num_hidden_layers=layers, attention=attention)
    compiled = torch.compile(ours.train(), fullgraph=True, backend="eager", dynamic=True)
    for length in (12, 9):
        check_step(compiled, ours, stock, plain_batch(length=length)[0], CLASS_IDS[:3])
    ours.eval(), stock.eval()
    with torch.no_grad():
        inputs, _ = plain_batch(length=12)
        close(compiled(**inputs).logits, stock(**inputs).logits)


@pytest.mark.parametrize("training", [False, True])
def test_compiled_convolution(training):
    inputs, _ = plain_batch()
    plain = build_model(TLMForSequenceClassification, KERNELS).train(training)
    ours = copy.deepcopy(plain)
    compiled = torch.compile(ours, fullgraph=True, backend="eager")
    losses = [model(**inputs, labels=CLASS_IDS[:3]).loss for model in (compiled, plain)]
    close(*losses)
    for loss in losses:
        loss.backward()
    compare_gradients(ours, plain)
    for (name, found), (_, expected) in zip(ours.named_buffers(), plain.named_buffers(), strict=True):
        close(found, expected)  # the running statistics, after one step
        before = build_model(TLMForSequenceClassification, KERNELS).get_buffer(name)
        assert training == (not torch.equal(expected, before))


@pytest.mark.parametrize("kind", ["masked_lm", "classifier"])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, NEEDS_COMPILER])])
def test_compiled_backward(build_pair, kind, backend):
    """Through AOTAutograd, which traces the backward pass too (`eager` above leaves it to autograd)."""
    inputs, labels = plain_batch()
    ours, stock = build_pair(kind)
    compiled = torch.compile(ours.train(), fullgraph=True, backend=backend)
    check_step(compiled, ours, stock, inputs, labels if kind == "masked_lm" else CLASS_IDS[:3])
    ours.eval()
    with torch.no_grad():
        close(compiled(**inputs).logits, stock.eval()(**inputs).logits)
