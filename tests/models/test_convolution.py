"""The convolution front-end against plain `torch.nn.functional`, written here from the paper's description.

For padded batches the oracle is the same text alone.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, randomise, refusal
from helpers_models import close, compare_gradients
from huggingface_hub.errors import StrictDataclassError
from transformers import BertConfig, BertForMaskedLM

from tlm_hf import TLMConfig, TLMForMaskedLM, TLMForSequenceClassification
from tlm_hf.models.convolution_tlm import MaskedBatchNorm2d

KERNELS = {
    "conv2": [[3, 3], [3, 3]],
    "conv3": [[3, 3], [3, 3], [3, 3]],
    "k16": [[16, 16], [3, 3]],
    "rectangles": [[2, 5], [4, 1]],
}
BY_KERNELS = pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS.keys())
BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON = 0.1, 1e-5  # torch's defaults, as in the authors' code
IGNORED_WARNING = "ignore:Using padding='same' with even kernel lengths:UserWarning"


def build_model(model_class, kernels, seed=0, **fields):
    """A model with every weight and running statistic drawn at random."""
    model = model_class(TLMConfig(**TINY | {"conv_channels": 5, "conv_kernel_sizes": kernels, **fields}))
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
    return model.eval()


def plain_front_end(front_end, hidden_states, training=False):
    """The description in torch.nn.functional, for texts without padding, and the buffers that it leaves."""
    states, buffers = hidden_states[:, None], []
    for block in [*front_end.layers, front_end.projection]:
        states = F.conv2d(states, block.convolution.weight, block.convolution.bias, padding="same")
        norm = block.batch_norm
        mean, variance = norm.running_mean.clone(), norm.running_var.clone()
        states = F.batch_norm(
            states, mean, variance, norm.weight, norm.bias, training, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON
        )
        states = F.gelu(states)
        buffers += [mean, variance, norm.num_batches_tracked + training]
    return states[:, 0], buffers


def padded_batch(lengths, width, seed=0):
    rng = np.random.default_rng(seed)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = rng.integers(1, TINY["vocab_size"], mask.shape) * mask
    labels = np.where((rng.random(mask.shape) < 0.3) & (mask == 1), ids, -100)
    labels[:, 0] = ids[:, 0]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}, torch.tensor(labels)


def widen(batch, labels, extra):
    wide = {name: F.pad(value, (0, extra)) for name, value in batch.items()}
    return wide, F.pad(labels, (0, extra), value=-100)


@BY_KERNELS
@pytest.mark.filterwarnings(IGNORED_WARNING)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask", ["none", "ones"])
def test_front_end_is_the_description(kernels, training, mask):
    front_end = build_model(TLMForMaskedLM, kernels).bert.front_end.train(training)
    states = torch.randn(3, 11, TINY["hidden_size"], generator=torch.Generator().manual_seed(2), requires_grad=True)
    expected, buffers = plain_front_end(front_end, states, training)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    gradients = torch.autograd.grad((expected * weights).sum(), [states, *front_end.parameters()])
    found = front_end(states, None if mask == "none" else torch.ones(3, 11, dtype=torch.long))
    close(found, expected)
    for buffer, after in zip(front_end.buffers(), buffers, strict=True):
        close(buffer, after)
    ours = torch.autograd.grad((found * weights).sum(), [states, *front_end.parameters()])
    largest = max(float(gradient.abs().max()) for gradient in gradients)
    for one, other in zip(ours, gradients, strict=True):
        assert float((one - other).abs().max()) <= 1e-5 * largest


@BY_KERNELS
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("model_class", [TLMForMaskedLM, TLMForSequenceClassification])
def test_training_does_not_depend_on_padding(kernels, fast, model_class):
    batch, labels = padded_batch([9, 4, 6], 9)
    if model_class is TLMForSequenceClassification:
        labels = torch.tensor([0, 1, 1])
        wide, wide_labels = widen(batch, batch["input_ids"], 5)[0], labels
    else:
        wide, wide_labels = widen(batch, labels, 5)
    tight, loose = (build_model(model_class, kernels, use_fast_path=fast).train() for _ in range(2))
    losses = tight(**batch, labels=labels).loss, loose(**wide, labels=wide_labels).loss
    close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    compare_gradients(loose, tight)
    before = build_model(model_class, kernels)
    for name, buffer in tight.named_buffers():
        close(loose.get_buffer(name), buffer)
        assert not torch.equal(buffer, before.get_buffer(name)), name


@BY_KERNELS
@pytest.mark.filterwarnings(IGNORED_WARNING)
@pytest.mark.parametrize("fast", [True, False])
def test_whole_model_is_stock_bert_around_the_described_front_end(kernels, fast):
    model = build_model(TLMForMaskedLM, kernels, num_hidden_layers=2, use_fast_path=fast)
    stock = BertForMaskedLM(BertConfig(**{**TINY, "num_hidden_layers": 2})).eval()
    state = {name: value for name, value in model.state_dict().items() if ".front_end." not in name}
    stock.load_state_dict(state, strict=True)
    batch, labels = padded_batch([9, 4, 6], 9)
    with torch.no_grad():
        scores = []
        for row, length in enumerate([9, 4, 6]):
            embedded = stock.bert.embeddings(batch["input_ids"][row : row + 1, :length])
            encoded = stock.bert.encoder(plain_front_end(model.bert.front_end, embedded)[0]).last_hidden_state
            scores.append(stock.cls(encoded)[0])
        evaluated = model(**batch, labels=labels)
        model.train()
        model.bert.front_end.eval()  # its statistics are another test's
        trained = model(**batch, labels=labels)
    for row, score in enumerate(scores):
        close(evaluated.logits[row, : len(score)], score)
    flat = torch.cat(scores)
    targets = torch.cat([labels[row, :length] for row, length in enumerate([9, 4, 6])])
    close(trained.logits, flat[targets != -100])
    close(trained.loss, F.cross_entropy(flat, targets))
    close(evaluated.loss, trained.loss)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.bfloat16, torch.float32)],
    ids=["bfloat16", "float16", "autocast"],
)
def test_statistics_of_half_precision_are_taken_in_float32(dtype, parameters, masked):
    """Oracle: nn.BatchNorm2d in float32 on the tokens alone; 92,160 of them a channel, more than float16 can count."""
    generator = torch.Generator().manual_seed(7)
    states = (3 + torch.randn(2, 2, 70, 768, generator=generator)).to(dtype).requires_grad_()
    mask = (torch.arange(70) < torch.tensor([70, 50])[:, None]) | (not masked)
    ours, plain = MaskedBatchNorm2d(2), torch.nn.BatchNorm2d(2)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([0.75, 1.5]))
        ours.bias.copy_(torch.tensor([-0.5, 2.0]))
    plain.load_state_dict(ours.state_dict())
    ours.to(parameters)
    tokens = states.detach().float().transpose(0, 1)[:, mask][None].requires_grad_()  # (1, channels, tokens, hidden)
    expected = plain(tokens)
    weights = torch.randn(states.shape, generator=generator).to(dtype)
    (expected * weights.float().transpose(0, 1)[:, mask][None]).sum().backward()

    found = ours(states, mask[:, None, :, None].to(dtype) if masked else None)
    (found * weights * mask[:, None, :, None]).sum().backward()
    rounding = float(torch.finfo(dtype).eps)
    assert found.dtype == states.grad.dtype == dtype
    packed = [value.detach().float().transpose(0, 1)[:, mask][None] for value in (found, states.grad)]
    for value, reference in zip(packed, (expected.detach(), tokens.grad), strict=True):
        torch.testing.assert_close(value, reference, atol=2 * rounding, rtol=2 * rounding)
    largest = max(float(parameter.grad.abs().max()) for parameter in plain.parameters())
    for name, parameter in plain.named_parameters():
        gradient = ours.get_parameter(name).grad
        assert gradient.dtype == parameters
        torch.testing.assert_close(gradient.float(), parameter.grad, atol=4 * rounding * largest, rtol=0)
    for name in ("running_mean", "running_var"):
        assert ours.get_buffer(name).dtype == parameters
        torch.testing.assert_close(ours.get_buffer(name).float(), plain.get_buffer(name), atol=0, rtol=2 * rounding)


def test_a_mask_that_is_not_2d_is_refused_in_one_sentence():
    model = build_model(TLMForMaskedLM, KERNELS["conv2"])
    masks = {"attention_mask": torch.zeros((1, 1, 4, 4)), "error": ValueError}
    assert "2-d attention_mask" in refusal(model, torch.ones((1, 4), dtype=torch.long), **masks)


@pytest.mark.parametrize(
    "fields",
    [
        {"conv_channels": 4},
        {"conv_kernel_sizes": [[3, 3]]},
        {"conv_channels": 4, "conv_kernel_sizes": [[3]]},
        {"conv_channels": 4, "conv_kernel_sizes": [[3, 0]]},
        {"hidden_size": 25},
        {"is_decoder": True},
    ],
)
def test_contradicting_configuration_is_refused(fields):
    with pytest.raises(StrictDataclassError, match=r"conv_kernel_sizes|not divisible|encoders"):
        TLMConfig(**{**TINY, **fields})
