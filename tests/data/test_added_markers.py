"""The markers of FewRel as tokens of their own: one token each, in a tokenizer and a model that are saved with them."""

import json

import pytest
import torch
import transformers

import tlm_hf
from tlm_hf.data.fewrel import ENTITY_MARKERS, add_entity_markers, apply_entity_markers
from tlm_hf.data.tokenization import tokenizer_hash


@pytest.fixture
def own_tokenizer(tokenizer, tmp_path):
    """The shared tokenizer, in a copy that may be changed."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def test_added_markers_are_one_token_each_and_stay_so(own_tokenizer, tokenizer, tmp_path):
    ours = own_tokenizer
    text = "[E1] the miller [/E1] counts [E2] salt [/E2]"
    assert not set(ENTITY_MARKERS) & set(ours.tokenize(text))
    assert add_entity_markers(ours) == 4
    words = ours.tokenize(text)
    assert [word for word in words if word in ENTITY_MARKERS] == list(ENTITY_MARKERS)
    assert [word for word in words if word not in ENTITY_MARKERS] == tokenizer.tokenize("the miller counts salt")
    assert add_entity_markers(ours) == 0
    ours.save_pretrained(tmp_path / "after")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "after")
    assert again.tokenize(text) == words
    assert len(again) == len(tokenizer) + 4
    assert tokenizer_hash(again) == tokenizer_hash(ours) != tokenizer_hash(tokenizer)


@pytest.mark.parametrize("convolution", [False, True])
def test_model_grows_and_its_config_says_so(own_tokenizer, tmp_path, convolution):
    ours = own_tokenizer
    shape = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    shape |= {"max_position_embeddings": 16, "vocab_size": len(ours), "num_labels": 3}
    if convolution:
        shape |= {"conv_channels": 2, "conv_kernel_sizes": [[3, 3]]}
    model = tlm_hf.TLMForSequenceClassification(tlm_hf.TLMConfig(**shape)).eval()
    before = model.get_input_embeddings().weight.detach().clone()
    ids = ours("the miller counts", return_tensors="pt")
    with torch.no_grad():
        logits = model(**ids).logits
    apply_entity_markers({"entity_markers": "added"}, ours, model)
    after = model.get_input_embeddings().weight
    assert after.shape == (len(before) + 4, 12)
    assert model.config.vocab_size == len(ours) == len(before) + 4
    assert torch.equal(after[:-4], before)
    with torch.no_grad():
        assert torch.equal(model(**ids).logits, logits)
        marked = model(**ours("[E1] the miller [/E1] counts", return_tensors="pt")).logits
    assert not torch.equal(marked, logits)
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["entity_markers"] == "added"
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert again.config.entity_markers == "added"
    if not convolution:
        assert isinstance(again, transformers.BertForSequenceClassification)
    with torch.no_grad():
        found = again(**ours("[E1] the miller [/E1] counts", return_tensors="pt")).logits
    torch.testing.assert_close(found, marked)


def test_without_added_markers_nothing_grows(tokenizer):
    model = transformers.BertModel(
        transformers.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    size = len(tokenizer)
    apply_entity_markers({}, tokenizer, model)
    assert not hasattr(model.config, "entity_markers")
    apply_entity_markers({"entity_markers": "text"}, tokenizer, model)
    assert model.config.entity_markers == "text"
    assert (len(tokenizer), model.config.vocab_size) == (size, 9)
