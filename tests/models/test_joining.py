"""Joining members: labels by name, tokenizers, broken folders, and committees made of committees' members."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, randomise, refusal
from peft import LoraConfig, inject_adapter_in_model
from tokenizers import Tokenizer, models
from transformers import BertTokenizer

from tlm_hf import CommitteeConfig, CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification

LABELS = {"id2label": {0: "sport", 1: "science", 2: "world"}, "label2id": {"sport": 0, "science": 1, "world": 2}}
join = CommitteeForSequenceClassification.from_members


@pytest.fixture
def pairs(build_pair):
    return [build_pair("classifier", seed=seed, **LABELS) for seed in range(3)]


@pytest.fixture
def ids():
    return torch.randint(1, TINY["vocab_size"], (4, 8), generator=torch.Generator().manual_seed(0))


def save(model, folder, words="a b c"):
    model.save_pretrained(folder)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words.split()]
    BertTokenizer(vocab={word: place for place, word in enumerate(vocab)}).save_pretrained(folder)
    return str(folder)


@torch.no_grad()
def test_labels_are_matched_by_name(build_pair, pairs, ids, tmp_path):
    turned = {0: "world", 1: "sport", 2: "science"}
    other, stock = build_pair("classifier", seed=9, id2label=turned, label2id={v: k for k, v in turned.items()})
    before = {name: weight.clone() for name, weight in other.state_dict().items()}
    for member in (other, stock, save(stock, tmp_path / "other")):
        committee = join([pairs[0][0], member])
        found = committee(ids)
        votes = torch.stack([pairs[0][1](ids).logits, stock(ids).logits[:, [1, 2, 0]]], dim=1)
        torch.testing.assert_close(found.member_logits, votes, atol=1e-5, rtol=1e-5)
        assert committee[1].config.id2label == LABELS["id2label"]
        assert committee[1].config.label2id == LABELS["label2id"]
    # The model that was passed in is as it was.
    assert other.config.id2label == turned
    for name, weight in other.state_dict().items():
        assert torch.equal(weight, before[name])
    committee.save_pretrained(tmp_path / "all")
    again = CommitteeForSequenceClassification.from_pretrained(tmp_path / "all")
    assert torch.equal(again(ids).logits, found.logits)


def test_impossible_choices_are_refused(pairs):
    committee = join([ours for ours, _ in pairs])
    for choose, sentence in (
        (lambda: committee.subset([]), "at least one member"),
        (lambda: committee.subset([1, 1]), "same object"),
        (lambda: join(committee), "takes a list of members"),
        (lambda: join([pairs[0][0], pairs[1][0].bfloat16()]), "Member 1 is in torch.bfloat16 but member 0"),
        (lambda: join([pairs[0][1], pairs[0][1]]), "Member 1 is the same object"),
        (
            lambda: join([inject_adapter_in_model(LoraConfig(target_modules=["query"]), pairs[2][1])]),
            "merge its adapters",
        ),
        (lambda: committee.resize_token_embeddings(99), "cannot resize its embeddings"),
        (lambda: join("folder"), "takes a list of members"),
        (lambda: join([3]), "Member 0 is a int"),
        (lambda: join([pairs[0][0]], combination="median"), "is 'median': choose one of probabilities, logits"),
        (lambda: CommitteeForSequenceClassification(CommitteeConfig()), "at least one member"),
    ):
        assert re.search(sentence, refusal(choose, error=ValueError))


def test_stock_weights_are_shared_and_renamed_labels_stay(pairs, ids):
    stock = pairs[0][1]
    committee = join((model for model in [stock, pairs[1][0]]), temperature=np.float32(2), combination="logits")
    for name, weight in stock.named_parameters():
        assert committee[0].get_parameter(name) is weight
    committee.config.id2label = {0: "x", 1: "y", 2: "z"}
    committee.config.label2id = {"x": 0, "y": 1, "z": 2}
    turned = committee.subset(iter([1, 0]))
    assert turned.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert (turned.config.temperature, turned.config.combination) == (2, "logits")
    with torch.no_grad():
        votes = [theirs(ids).logits for _, theirs in pairs[:2]]
        torch.testing.assert_close(committee(ids).member_logits, torch.stack(votes, 1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(turned(ids).member_logits, torch.stack(votes[::-1], 1), atol=1e-5, rtol=1e-5)


def test_tokenizers_must_be_the_same(pairs, tmp_path):
    same = [save(pairs[place][0], tmp_path / f"same{place}") for place in range(2)]
    assert len(join(same)) == 2
    other = save(pairs[2][0], tmp_path / "other", "a b d")
    assert "Member 2 has another tokenizer than member 0" in refusal(join, [*same, other], error=ValueError)
    with pytest.raises(ValueError, match="Member 2 has another tokenizer"):  # of models, by where they came from
        join([*join(same).members, other])
    # Settings that decide no tokens, and a folder without a tokenizer, are no difference.
    file = tmp_path / "same1" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    assert isinstance(tokenizer.model, models.WordPiece)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding()
    tokenizer.save(str(file))
    pairs[2][0].save_pretrained(tmp_path / "bare")
    assert len(join([*same, str(tmp_path / "bare")])) == 3


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda folder: shutil.rmtree(folder), "is neither a folder nor a Hub name"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be opened"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be opened"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"1234567890" * 9), "cannot be opened"),
        (lambda folder: shutil.copy(folder.parent / "encoder.safetensors", folder / "model.safetensors"), "lacks"),
        (lambda folder: change_config(folder, model_type="gpt2"), "is of type 'gpt2'"),
        (lambda folder: change_config(folder, intermediate_size=8), "by its config.json it would be"),
        (lambda folder: change_config(folder, hidden_size=25), "cannot be opened"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot be opened"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "its tokenizer.json is damaged"),
    ],
)
def test_a_broken_folder_is_named(pairs, tmp_path, break_it, reason):
    good, bad = save(pairs[0][0], tmp_path / "good"), tmp_path / "bad"
    save(pairs[1][0], bad)
    pairs[2][0].bert.save_pretrained(tmp_path / "encoder")
    shutil.copy(tmp_path / "encoder" / "model.safetensors", tmp_path / "encoder.safetensors")
    break_it(bad)
    assert re.search(f"Member 1.*{reason}", refusal(join, [good, str(bad)], error=ValueError))


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@torch.no_grad()
def test_folders_take_the_options_of_from_pretrained(pairs, ids, tmp_path):
    folders = [save(ours, tmp_path / f"run@{place}" / "inner") for place, (ours, _) in enumerate(pairs)]
    expected = torch.stack([stock(ids).logits for _, stock in pairs], dim=1)
    torch.testing.assert_close(join(folders)(ids).member_logits, expected, atol=1e-5, rtol=1e-5)
    outer = [str(tmp_path / f"run@{place}") for place in range(3)]
    torch.testing.assert_close(join(outer, subfolder="inner")(ids).member_logits, expected, atol=1e-5, rtol=1e-5)
    half = join(folders, dtype=torch.bfloat16, device_map="cpu")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(half(ids).member_logits.float(), expected, atol=0.1, rtol=0.1)
    with pytest.raises(ValueError, match=r"Member 0, .*run@9.*neither a folder nor a Hub name"):
        join([str(tmp_path / "run@9")])


@torch.no_grad()
def test_a_hub_name_is_opened_at_a_revision(tmp_path):
    repository, expected = tmp_path / "models--maker--conv", {}
    (repository / "refs").mkdir(parents=True)
    fields = {**TINY, "conv_channels": 3, "conv_kernel_sizes": [[4, 4], [3, 3]], **LABELS}
    for seed, (sha, ref) in enumerate((("1" * 40, "v1"), ("2" * 40, "main"))):
        (repository / "refs" / ref).write_text(sha)
        expected[ref] = TLMForSequenceClassification(TLMConfig(**fields)).eval()
        randomise(expected[ref], seed=seed)
        expected[ref].save_pretrained(repository / "snapshots" / sha)
    inputs = {"input_ids": torch.arange(1, 13).view(3, 4)}
    for options, ref in (({"revision": "v1"}, "v1"), ({"revision": "1" * 40}, "v1"), ({}, "main")):
        found = join(["maker/conv"], cache_dir=tmp_path, **options)(**inputs).member_logits[:, 0]
        torch.testing.assert_close(found, expected[ref](**inputs).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="Member 0, 'maker/conv', cannot be opened"):
        join(["maker/conv"], cache_dir=tmp_path, revision="v3")
