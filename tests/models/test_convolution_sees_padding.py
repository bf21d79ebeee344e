"""`conv_sees_padding`: the front-end reads padding as text, and the model itself pads every input to full length.

Oracle: texts padded by hand, stock BERT, and between its embeddings and layers the front-end in plain torch.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, refusal
from helpers_models import close
from huggingface_hub.errors import StrictDataclassError
from test_convolution import BY_KERNELS, IGNORED_WARNING, KERNELS, build_model, padded_batch, plain_front_end
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from tlm_hf import TLMConfig, TLMForMaskedLM, TLMForSequenceClassification, TLMModel

LONGEST = TINY["max_position_embeddings"]
STOCK = {TLMForMaskedLM: BertForMaskedLM, TLMForSequenceClassification: BertForSequenceClassification}
pytestmark = pytest.mark.filterwarnings(IGNORED_WARNING)


def build(model_class=TLMForMaskedLM, kernels=KERNELS["conv2"], **fields):
    """A model that sees padding; its [PAD] has a vector like any other, as an imported one may."""
    model = build_model(model_class, kernels, conv_sees_padding=True, num_hidden_layers=2, **fields)
    with torch.no_grad():
        model.get_input_embeddings().weight[0].normal_(0, 0.5, generator=torch.Generator().manual_seed(9))
    return model


def stock_around(model):
    stock = STOCK[type(model)](BertConfig(**{**TINY, "num_hidden_layers": 2}, attn_implementation="eager")).eval()
    state = {name: value for name, value in model.state_dict().items() if ".front_end." not in name}
    stock.load_state_dict(state, strict=True)
    return stock


def by_hand(stock, front_end, input_ids, attention_mask, token_types=None, training=False):
    """Encoder output (batch, LONGEST, hidden) of texts padded by hand."""
    extra = LONGEST - input_ids.shape[1]
    types = torch.zeros_like(input_ids) if token_types is None else token_types
    ids, mask, types = (F.pad(value, (0, extra)) for value in (input_ids, attention_mask, types))
    states, _ = plain_front_end(front_end, stock.bert.embeddings(ids, token_type_ids=types), training)
    bias = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
    return stock.bert.encoder(states, attention_mask=bias).last_hidden_state


@BY_KERNELS
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("model_class", list(STOCK))
def test_model_is_stock_bert_around_a_front_end_over_padding(kernels, fast, model_class):
    model = build(model_class, kernels, use_fast_path=fast)
    stock = stock_around(model)
    lengths = [9, 4, 1]
    batch, _ = padded_batch(lengths, 9)
    types = torch.randint(0, 2, (3, 9), generator=torch.Generator().manual_seed(1)) * batch["attention_mask"]
    with torch.no_grad():
        encoded = by_hand(stock, model.bert.front_end, **batch, token_types=types)
        is_masked = model_class is TLMForMaskedLM
        expected = stock.cls(encoded)[:, :9] if is_masked else stock.classifier(stock.bert.pooler(encoded))
        inputs = {**batch, "token_type_ids": types}
        close(model(**inputs).logits, expected)
        close(model(**inputs, position_ids=torch.arange(9)[None]).logits, expected)
        embedded = inputs | {"input_ids": None, "inputs_embeds": model.get_input_embeddings()(batch["input_ids"])}
        close(model(**embedded).logits, expected)
        for row, length in enumerate(lengths):  # alone, without padding and without a mask
            alone = model(batch["input_ids"][row : row + 1, :length], token_type_ids=types[row : row + 1, :length])
            kept = slice(0, length) if model_class is TLMForMaskedLM else slice(None)
            close(alone.logits[0], expected[row][kept])
    masked = build_model(model_class, kernels, num_hidden_layers=2)
    masked.load_state_dict(model.state_dict())
    difference = (masked(**inputs).logits[1, :2] - expected[1, :2]).abs().max()
    assert float(difference.detach()) > 1e-3, "the switch changes nothing"


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("extra", [0, 3, LONGEST - 9])
def test_training_is_plain_batch_norm_over_all_positions(fast, extra):
    model = build(use_fast_path=fast)
    stock = stock_around(model).train()
    batch, labels = padded_batch([9, 4, 6], 9)
    encoded = by_hand(stock, model.bert.front_end, **batch, training=True)[:, :9]
    expected = F.cross_entropy(stock.cls(encoded).flatten(0, 1), labels.flatten(), ignore_index=-100)
    front_end = dict(model.bert.front_end.named_parameters())
    gradients = torch.autograd.grad(expected, [*stock.parameters(), *front_end.values()], allow_unused=True)
    names = [name for name, _ in stock.named_parameters()] + [f"bert.front_end.{name}" for name in front_end]
    embedded = stock.bert.embeddings(F.pad(batch["input_ids"], (0, LONGEST - 9)))
    _, buffers = plain_front_end(model.bert.front_end, embedded, training=True)
    wide = {name: F.pad(value, (0, extra)) for name, value in batch.items()}
    loss = model.train()(**wide, labels=F.pad(labels, (0, extra), value=-100)).loss
    close(loss, expected)
    loss.backward()
    found = dict(model.named_parameters())
    largest = max(float(gradient.abs().max()) for gradient in gradients if gradient is not None)
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is not None:  # stock BERT has a pooler here, which no loss reads
            assert float((found[name].grad - gradient).abs().max()) <= 1e-5 * largest, name
    for buffer, after in zip(model.bert.front_end.buffers(), buffers, strict=True):
        close(buffer, after)


def test_switch_is_saved_with_a_front_end_only(tmp_path):
    model = build()
    model.save_pretrained(tmp_path / "convolution")
    assert json.loads((tmp_path / "convolution" / "config.json").read_text())["conv_sees_padding"] is True
    again = TLMForMaskedLM.from_pretrained(tmp_path / "convolution")
    batch, _ = padded_batch([9, 4, 6], 9)
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    TLMModel(TLMConfig(**TINY)).save_pretrained(tmp_path / "plain")
    assert "conv_sees_padding" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_what_cannot_be_padded_is_refused_in_one_sentence():
    with pytest.raises(StrictDataclassError, match="conv_sees_padding needs a convolution front-end"):
        TLMConfig(**TINY, conv_sees_padding=True)
    with pytest.raises(StrictDataclassError, match="pad_token_id"):
        build(pad_token_id=None)
    ids = torch.ones((1, LONGEST + 1), dtype=torch.long)
    assert "truncate it" in refusal(build(), ids, position_ids=0 * ids, error=ValueError)
