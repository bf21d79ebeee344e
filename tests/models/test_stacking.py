"""Stacked members against stock BERT members that answer apart, on the same weights."""

import copy
import pickle

import pytest
import torch
from conftest import TINY, randomise
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, pipeline

from tlm_hf import CommitteeForSequenceClassification, TLMForSequenceClassification
from tlm_hf.models import stacking_committee as stacking
from tlm_hf.models.memory_committee import page_out

LABELS = {"id2label": {0: "sport", 1: "science", 2: "world"}, "label2id": {"sport": 0, "science": 1, "world": 2}}
SHAPES = ({}, {}, {"num_hidden_layers": 2}, {"hidden_size": 16, "num_attention_heads": 2}, {})
"""Members 0, 1 and 4 are of one shape, 3 of another; 2 has two layers and answers alone."""


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture
def pairs(build_pair):
    return [build_pair("classifier", seed=seed, **shape, **LABELS) for seed, shape in enumerate(SHAPES)]


@pytest.fixture
def committee(pairs):
    return CommitteeForSequenceClassification.from_members([ours for ours, _ in pairs])


@pytest.fixture
def answered(monkeypatch):
    """How many members each stack answered for, call after call."""
    calls = []
    answer = stacking.MemberStack.answer

    def count(self, *args, **kwargs):
        calls.append(len(self.positions))
        return answer(self, *args, **kwargs)

    monkeypatch.setattr(stacking.MemberStack, "answer", count)
    return calls


def masks(kind, rows, length, generator):
    counts = torch.randint(1, length + 1, (rows, 1), generator=generator)
    places = torch.arange(length)
    if kind == "right":
        return (places < counts).long()
    if kind == "left":
        return (places >= length - counts).long()
    mask = torch.randint(0, 2, (rows, length), generator=generator)
    mask[torch.arange(rows), torch.randint(0, length, (rows,), generator=generator)] = 1
    return mask if kind == "holes" else torch.ones_like(mask)


def votes_apart(pairs, *args, **kwargs):
    with torch.no_grad():
        return torch.stack([stock(*args, **kwargs).logits for _, stock in pairs], dim=1)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 4, 5, 9, 40]),
    length=st.sampled_from([1, 2, 7, 16]),
    kind=st.sampled_from(["none", "full", "right", "left", "holes"]),
    same_start=st.booleans(),
    types=st.booleans(),
    positions=st.booleans(),
    seed=st.integers(0, 3),
)
def test_votes_are_those_of_stock_members(build_pair, rows, length, kind, same_start, types, positions, seed):
    pairs = [build_pair("classifier", seed=place, **shape, **LABELS) for place, shape in enumerate(SHAPES)]
    committee = CommitteeForSequenceClassification.from_members([ours for ours, _ in pairs])
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, TINY["vocab_size"], (rows, length), generator=generator)
    if same_start:
        ids[:, 0] = 2
    inputs = {} if kind == "none" else {"attention_mask": masks(kind, rows, length, generator)}
    if types:
        inputs["token_type_ids"] = torch.randint(0, 2, (rows, length), generator=generator)
    if positions:
        inputs["position_ids"] = torch.randint(0, TINY["max_position_embeddings"], (1, length), generator=generator)
    with torch.inference_mode():
        found = committee(ids, **inputs).member_logits
    assert sorted(stack.positions for stack in committee._stacks) == [[0, 1, 4], [3]]
    close(found, votes_apart(pairs, ids, **inputs))


def test_pieces_of_texts_and_members_change_nothing(committee, pairs, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, TINY["vocab_size"], (11, 16), generator=generator)
    mask = masks("right", 11, 16, generator)
    expected = votes_apart(pairs, ids, mask)
    for at_once in (1, 16, 47, 230, 10_000):
        monkeypatch.setattr(stacking, "TOKENS_AT_ONCE", at_once)
        with torch.no_grad():
            close(committee(ids, mask).member_logits, expected)


def test_stacked_weights_are_held_once_and_saved_as_they_were(committee, pairs, tmp_path, answered):
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    with torch.no_grad():
        committee(ids)
    storages = {weight.untyped_storage().data_ptr(): weight.untyped_storage() for weight in committee.parameters()}
    held = sum(storage.nbytes() for storage in storages.values())
    assert held == sum(weight.nbytes for weight in committee.parameters())
    stacks = sum(weight.nbytes for stack in committee._stacks for weight in stack.weights.values())
    assert {weight.data_ptr() for stack in committee._stacks for weight in stack.weights.values()} <= set(storages)
    assert stacks < held
    committee.save_pretrained(tmp_path / "all")
    again = CommitteeForSequenceClassification.from_pretrained(tmp_path / "all")
    for (name, found), (other, expected) in zip(again.named_parameters(), committee.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(found, expected)
    committee[4].save_pretrained(tmp_path / "four")
    alone = BertForSequenceClassification.from_pretrained(tmp_path / "four")
    close(alone(ids).logits, pairs[4][1](ids).logits)
    assert answered == [3, 1]


def test_pages_that_are_taken_out_keep_their_content(tmp_path):
    """Of a mapped file and of plain memory, changed or not, and of another tensor on the same pages."""
    save_file({"a": torch.arange(50_000.0), "b": torch.arange(50_000.0)}, tmp_path / "w.safetensors")
    mapped = load_file(tmp_path / "w.safetensors")
    plain = torch.arange(50_000.0)
    for tensor in (*mapped.values(), plain):
        tensor[7] = -1.0
        expected = tensor.clone()
        page_out(tensor)
        page_out(tensor[:3])
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("edit", ["in place", "through .data", "another tensor", "load_state_dict", "dtype and back"])
@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.0.attention.self.key.weight",
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.attention.self.query.bias",
        "encoder.layer.0.output.dense.weight",
        "embeddings.word_embeddings.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.LayerNorm.weight",
    ],
)
def test_an_edit_of_a_weight_counts_at_once(committee, pairs, edit, name):
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    ids[:, 0] = 2  # the same start, whose constants are kept
    name = f"bert.{name}"
    with torch.no_grad():
        for _ in range(2):
            close(committee(ids).member_logits, votes_apart(pairs, ids))
        assert committee._stacks[0]._kept is not None
        stock = pairs[1][1]
        new = torch.randn_like(stock.get_parameter(name))
        stock.get_parameter(name).copy_(new)
        weight = committee[1].get_parameter(name)
        if edit == "in place":
            weight.copy_(new)
        elif edit == "through .data":
            weight.data.copy_(new)
        elif edit == "another tensor":
            weight.data = new.clone()
        elif edit == "load_state_dict":
            committee.load_state_dict({**committee.state_dict(), f"members.1.{name}": new})
        else:
            weight.copy_(new)
            committee.double().float()
        close(committee(ids).member_logits, votes_apart(pairs, ids))


def test_weights_made_in_inference_mode_answer_too(committee, pairs):
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    ids[:, 0] = 2
    with torch.inference_mode():
        made = copy.deepcopy(committee).double()
        for _ in range(2):
            close(made(ids).member_logits.float(), votes_apart(pairs, ids))


def test_one_entry_in_place_counts_too(committee, pairs):
    """Of a matrix of which only a sample is compared: the version counter tells."""
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    ids[:, 0] = 2
    with torch.inference_mode():
        committee(ids)
    with torch.no_grad():
        for model in (committee[1], pairs[1][1]):
            model.bert.encoder.layer[0].attention.self.key.weight[1, 1] += 50
        close(committee(ids).member_logits, votes_apart(pairs, ids))


def test_it_trains_after_it_has_answered(committee, pairs):
    """Also where the first answer was given in inference mode, whose tensors cannot be trained."""
    ids, labels = torch.randint(1, TINY["vocab_size"], (4, 8)), torch.tensor([0, 1, 2, 0])
    with torch.inference_mode():
        committee(ids)
    committee.train()(ids, labels=labels).loss.backward()
    torch.optim.SGD(committee.parameters(), lr=0.1).step()
    for _, stock in pairs:
        stock.train()(ids, labels=labels).loss.backward()
        torch.optim.SGD(stock.parameters(), lr=0.1).step()
        stock.eval()
    with torch.no_grad():
        close(committee.eval()(ids).member_logits, votes_apart(pairs, ids))


def hook(committee):
    committee[1].bert.pooler.register_forward_hook(lambda module, inputs, output: output * 0)


def dropout_on(committee):
    committee[1].bert.embeddings.dropout.p = 0.5
    committee[1].bert.embeddings.dropout.train()


def slow_path(committee):
    committee[1].config.use_fast_path = False


@pytest.mark.parametrize("change", [hook, dropout_on, slow_path])
def test_what_stacking_would_pass_by_is_not_stacked(committee, answered, change):
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    with torch.no_grad():
        committee(ids)
        answered.clear()
        change(committee)
        torch.manual_seed(0)
        found = committee(ids).member_logits[:, 1]
        assert answered == [1]  # the stack without the changed member
        torch.manual_seed(0)
        assert torch.equal(found, committee[1](ids).logits)


def test_adapters_and_foreign_modules_answer_alone(committee, pairs, answered):
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    with torch.no_grad():
        committee(ids)
        answered.clear()
        committee[0].dropout = torch.nn.Identity()
        adapted = get_peft_model(committee, LoraConfig(target_modules=r"members\.1\..*query", init_lora_weights=False))
        found = adapted.eval()(ids).member_logits
        assert answered == [1, 1]  # member 4 alone, and member 3
        expected = votes_apart(pairs, ids)
        close(found[:, [0, 2, 3, 4]], expected[:, [0, 2, 3, 4]])
        assert not torch.allclose(found[:, 1], expected[:, 1], atol=1e-3)


@pytest.mark.parametrize("reason", ["gradients", "hidden states", "a row without tokens", "embeddings"])
def test_calls_that_stacks_cannot_answer(committee, pairs, answered, reason):
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    mask = torch.ones_like(ids)
    options = {"output_attentions": True} if reason == "hidden states" else {}
    if reason == "a row without tokens":
        mask[1] = 0
    with torch.set_grad_enabled(reason == "gradients"):
        if reason == "embeddings":
            states = committee.get_input_embeddings()(ids)
            same = committee.subset([0])
            found = same(inputs_embeds=states, attention_mask=mask).member_logits
            expected = pairs[0][1](inputs_embeds=states, attention_mask=mask).logits[:, None]
        else:
            found = committee(ids, mask, **options).member_logits
            expected = votes_apart(pairs, ids, mask)
    assert not answered
    close(found, expected)


def test_copies_and_pickles_do_not_share_weights(committee):
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    with torch.no_grad():
        expected = committee(ids).logits
        for other in (copy.deepcopy(committee), pickle.loads(pickle.dumps(committee))):
            assert torch.equal(other(ids).logits, expected)
            other[0].classifier.bias[0] += 1
            assert not torch.allclose(other(ids).logits, expected)
        assert torch.equal(committee(ids).logits, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(pairs, dtype):
    committee = CommitteeForSequenceClassification.from_members([ours for ours, _ in pairs]).to(dtype)
    ids, generator = torch.randint(1, TINY["vocab_size"], (6, 16)), torch.Generator().manual_seed(0)
    mask = masks("right", 6, 16, generator)
    expected = votes_apart(pairs, ids, mask)
    with torch.no_grad():
        found = committee(ids, mask).member_logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under_autocast = committee(ids, mask).member_logits
    assert found.dtype == dtype
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(under_autocast.float(), expected, atol=0.1, rtol=0.1)


def test_too_long_a_text_is_refused_in_one_sentence(committee, one_sentence):
    ids = torch.ones((2, TINY["max_position_embeddings"] + 1), dtype=torch.long)
    with torch.no_grad(), pytest.raises(ValueError, match="truncate it") as caught:
        committee(ids)
    one_sentence(caught.value)


def test_pipeline_shows_the_committees_probabilities(build_pair, tmp_path):
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(words)}, model_max_length=20)
    fields = {**TINY, "vocab_size": len(words)}
    stock = []
    for seed in range(2):
        model = BertForSequenceClassification(BertConfig(**fields, **LABELS)).eval()
        randomise(model, seed)
        stock.append(model)
    committee = CommitteeForSequenceClassification.from_members(stock)
    classify = pipeline("text-classification", model=committee, tokenizer=tokenizer, device="cpu")
    texts = ["a b", "c", "a b c a b"]
    for text, found in zip(texts, classify(texts, top_k=None, batch_size=2), strict=True):
        with torch.no_grad():
            batch = tokenizer(text, return_tensors="pt")
            mean = torch.stack([model(**batch).logits.softmax(-1) for model in stock]).mean(0)[0]
        assert {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in found} == {
            LABELS["id2label"][index]: float(share) for index, share in enumerate(mean)
        }


def test_a_stack_is_made_of_members_that_own_their_weights(build_pair):
    """Two members around one encoder cannot both be views of a stack."""
    ours, stock = build_pair("classifier", **LABELS)
    other = TLMForSequenceClassification(ours.config).eval()
    other.bert = ours.bert
    committee = CommitteeForSequenceClassification.from_members([ours, other])
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    with torch.no_grad():
        found = committee(ids).member_logits
        close(found[:, 0], stock(ids).logits)
        stock.classifier.load_state_dict(other.classifier.state_dict())
        close(found[:, 1], stock(ids).logits)


def test_members_of_two_committees_are_stacked_once(committee, pairs, answered):
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    expected = votes_apart(pairs, ids)
    with torch.no_grad():
        part = committee.subset([0, 1])
        for _ in range(2):
            close(committee(ids).member_logits, expected)
            close(part(ids).member_logits, expected[:, :2])
        assert answered == [3, 1, 3, 1]  # `part` answers one by one
        answered.clear()
        del committee._stacks, committee._stacked  # as if it were gone
        close(part(ids).member_logits, expected[:, :2])
        assert answered == [2]


def test_unknown_tensors_among_the_options_are_passed_by(committee, pairs):
    ids = torch.randint(1, TINY["vocab_size"], (3, 8))
    with torch.no_grad():
        found = committee(ids, special_tokens_mask=torch.zeros_like(ids)).member_logits
    close(found, votes_apart(pairs, ids))
