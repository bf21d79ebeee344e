"""Frozen committees against their committee, whose members are stock BERTs with the same weights."""

import re

import numpy as np
import pytest
import torch
from conftest import TINY, refusal
from helpers_models import close
from helpers_models import stock_committee as build
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig

from tlm_hf import (
    CommitteeForSequenceClassification,
    FrozenCommitteeForSequenceClassification,
    TLMConfig,
    TLMForSequenceClassification,
)
from tlm_hf.models.configuration_frozen import FrozenCommitteeConfig
from tlm_hf.models.modeling_frozen import SHARED

PROBLEMS = ["single_label_classification", "multi_label_classification", "regression"]
CLS, PRECISION = 2, {"float32": 1e-5, "float16": 2e-2, "int8": 0.3}
join = CommitteeForSequenceClassification.from_members


def batch(rows, length, seed=0, words=TINY["vocab_size"]):
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(1, length + 1, (rows, 1))).astype(np.int64)
    ids = rng.integers(3, words, (rows, length)) * mask
    ids[:, 0] = CLS
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@torch.no_grad()
@given(
    heads=st.integers(1, 4), size=st.sampled_from([1, 3, 8]), count=st.integers(1, 4), rows=st.integers(1, 5),
    length=st.integers(1, 16), words=st.integers(4, 70), eps=st.sampled_from([1e-12, 1e-3]), seed=st.integers(0, 99),
    act=st.sampled_from(["gelu", "relu"]), combination=st.sampled_from(["probabilities", "logits"]),
    problem=st.sampled_from(PROBLEMS), types=st.booleans(),
)  # fmt: skip
def test_a_frozen_committee_is_its_stock_members(
    heads, size, count, rows, length, words, eps, seed, act, combination, problem, types
):
    fields = {"hidden_size": heads * size, "num_attention_heads": heads, "hidden_act": act, "layer_norm_eps": eps}
    fields |= {"problem_type": problem, "num_labels": 1 if problem == "regression" else 3, "vocab_size": words}
    committee, stocks = build(count, seed, 1.0 if problem == "regression" else 1.3, combination, **fields)
    inputs = batch(rows, length, seed, words)
    if types:
        starts = torch.from_numpy(np.random.default_rng(seed).integers(1, length + 1, (rows, 1)))
        inputs["token_type_ids"] = (torch.arange(length) >= starts).long() * inputs["attention_mask"]
    votes = torch.stack([stock(**inputs).logits for stock in stocks], dim=1)
    expected = committee(**inputs)
    found = committee.freeze(cls_token_id=CLS, token_types=types)(**inputs)
    close(found.member_logits, votes)
    close(found.logits, expected.logits)
    for name, values in expected.uncertainty.items():
        close(found.uncertainty[name], values)


@torch.no_grad()
@pytest.mark.parametrize("dtype", PRECISION)
def test_every_precision_survives_saving_here_and_as_remote_code(tmp_path, dtype):
    committee, _ = build(3)
    frozen, inputs = committee.freeze(dtype, cls_token_id=CLS), batch(4, 16)
    expected = frozen(**inputs, labels=torch.tensor([0, 1, 2, 0]))
    assert float((expected.member_logits - committee(**inputs).member_logits).abs().max()) < PRECISION[dtype]
    frozen.save_pretrained(tmp_path)
    models = [FrozenCommitteeForSequenceClassification.from_pretrained(tmp_path)]
    for options in ({}, {"trust_remote_code": True}, {"dtype": torch.float32}):
        models.append(AutoModelForSequenceClassification.from_pretrained(tmp_path, **options))
    for model in models:
        found = model(**inputs, labels=torch.tensor([0, 1, 2, 0]))
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.loss, expected.loss)
        assert (model.config.temperature, model.config.id2label) == (1.3, committee.config.id2label)


def test_a_configuration_by_default_is_stock_berts_without_a_table_of_words():
    ours, stock = FrozenCommitteeConfig(), BertConfig()
    for name in set(SHARED) - {"max_position_embeddings"}:
        assert getattr(ours, name) == getattr(stock, name)
    assert (ours.cls_token_id, ours.temperature, ours.lexical_buckets, ours.num_members) == (101, 1.0, 0, 1)


@torch.no_grad()
def test_it_is_a_value_and_not_a_view():
    committee, _ = build()
    frozen, inputs = committee.freeze(cls_token_id=CLS), batch(3, 9)
    before = frozen(**inputs).logits
    for parameter in committee.parameters():
        parameter.data += 0.1
    assert torch.equal(frozen(**inputs).logits, before)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    with pytest.raises(ValueError, match="train the committee and freeze it again"):
        frozen.train()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_hidden_layers": 2}, "Member 1 .*has 2 layers"),
        ({"conv_channels": 2, "conv_kernel_sizes": [[3, 3]]}, "Member 1 .*has a convolution"),
        ({"num_attention_heads": 4}, "Member 1 .*num_attention_heads 4, unlike member 0"),
        ({"layer_norm_eps": 1e-5}, "Member 1 .*layer_norm_eps 1e-05, unlike member 0"),
        ({"hidden_act": "relu"}, "Member 1 .*hidden_act relu, unlike member 0"),
    ],
)
def test_what_has_no_tables_is_named(changes, sentence):
    members = [TLMForSequenceClassification(TLMConfig(**{**TINY, **fields})) for fields in ({}, changes)]
    assert re.search(sentence, refusal(join(members).freeze, cls_token_id=CLS, error=ValueError))


def test_adapters_unknown_precisions_and_unknown_tokenizers_are_refused():
    committee, _ = build()
    for options, sentence in (({"dtype": "int4", "cls_token_id": CLS}, "int4.*choose"), ({}, "pass freeze.cls_token")):
        assert re.search(sentence, refusal(committee.freeze, **options, error=ValueError))
    adapted = get_peft_model(committee, LoraConfig(r=2, target_modules=["query"])).base_model.model
    with pytest.raises(ValueError, match="has an adapter"):
        adapted.freeze(cls_token_id=CLS)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"input_ids": torch.full((2, 5), 7)}, "start with token 2"),
        ({"attention_mask": torch.ones(2, 1, 5, 5)}, "a mask of that shape"),
        ({"token_type_ids": torch.ones((2, 5), dtype=torch.long)}, "token_types=True"),
        ({"position_ids": torch.zeros((2, 5), dtype=torch.long)}, "takes no position_ids"),
        ({"input_ids": torch.full((2, 17), CLS), "attention_mask": None}, "at most 16 tokens, not 17"),
    ],
)
def test_what_only_the_committee_answers_is_refused_in_one_sentence(changes, sentence):
    frozen = build()[0].freeze(cls_token_id=CLS)
    assert re.search(f"{sentence}.*ask the committee", refusal(frozen, **{**batch(2, 5), **changes}, error=ValueError))


def test_nothing_is_pinned_to_the_cpu():
    inputs = {name: value.to("meta") for name, value in batch(4, 16).items()}
    for dtype in PRECISION:
        frozen = build()[0].freeze(dtype, cls_token_id=CLS).to("meta")
        assert frozen(**inputs).logits.device.type == "meta"


@torch.no_grad()
def test_tables_of_bytes_can_be_compiled():
    """Oracle: torch's kernel of rows of bytes, which sums them where nothing is compiled."""
    frozen, inputs = build(3)[0].freeze("int8", cls_token_id=CLS), batch(4, 16)
    compiled = torch.compile(frozen, fullgraph=True, backend="eager")
    close(compiled(**inputs).member_logits, frozen(**inputs).member_logits)
