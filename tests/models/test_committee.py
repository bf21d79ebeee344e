"""The soft committee against numpy's mean of softmax and stock BERT members that vote and train apart."""

import pickle
import re

import numpy as np
import pytest
import torch
from accelerate.utils.operations import convert_to_fp32
from conftest import TINY, randomise, refusal
from helpers_models import close
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig
from scipy.special import softmax
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from tlm_hf import CommitteeConfig, CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification

SHAPES = (
    {},
    {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2},
    {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 20, "max_position_embeddings": 20},
)
LABELS = {"id2label": {0: "sport", 1: "science", 2: "world"}, "label2id": {"sport": 0, "science": 1, "world": 2}}


@pytest.fixture
def members(build_pair):
    return [build_pair("classifier", seed=seed, **shape, **LABELS) for seed, shape in enumerate(SHAPES)]


def convolution_member(seed=7, **fields):
    model = TLMForSequenceClassification(
        TLMConfig(**{**TINY, "conv_channels": 4, "conv_kernel_sizes": [[3, 3], [3, 3]], **LABELS, **fields})
    )
    randomise(model, seed)
    return model.eval()


def make_batch(seed=0, rows=4, length=9):
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(2, length + 1, (rows, 1))).astype(np.int64)
    ids = rng.integers(1, TINY["vocab_size"], (rows, length)) * mask
    types = rng.integers(0, 2, (rows, length))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "token_type_ids": torch.tensor(types)}


def test_votes_are_the_stock_members_and_the_loss_is_that_of_the_mean(members):
    batch, labels = make_batch(), torch.tensor([0, 2, 1, 1])
    committee = CommitteeForSequenceClassification.from_members([ours for ours, _ in members], temperature=1.7)
    assert len(committee) == 3
    assert committee.get_input_embeddings() is committee[0].get_input_embeddings()
    assert not committee.training
    with torch.no_grad():
        output = committee(**batch, labels=labels)
        votes = np.stack([stock(**batch).logits.numpy() for _, stock in members], axis=1).astype(np.float64)
    np.testing.assert_allclose(output.member_logits.numpy(), votes, atol=1e-5, rtol=1e-5)
    expected = np.log(softmax(votes, axis=-1).mean(axis=1)) / 1.7
    np.testing.assert_allclose(output.logits.numpy(), expected, atol=1e-5, rtol=1e-5)
    cross_entropy = -np.log(softmax(expected, axis=-1))[np.arange(4), labels.numpy()].mean()
    assert float(output.loss) == pytest.approx(cross_entropy, abs=1e-5)
    as_tuple = committee(**batch, labels=labels, return_dict=False)
    assert isinstance(as_tuple, tuple)
    close(as_tuple[0], output.loss)


def test_mixed_shapes_survive_saving_bit_for_bit(members, tmp_path):
    sources = []
    for position, (ours, _) in enumerate(members):
        ours.save_pretrained(tmp_path / f"member-{position}")
        sources.append(str(tmp_path / f"member-{position}"))
    members_of = CommitteeForSequenceClassification.from_members
    committee = members_of([*sources, convolution_member()], temperature=0.8, combination="logits")
    committee.save_pretrained(tmp_path / "committee")
    again = CommitteeForSequenceClassification.from_pretrained(tmp_path / "committee")
    assert (again.config.temperature, again.config.combination) == (0.8, "logits")
    assert again.config.id2label == LABELS["id2label"]
    assert [member.config.num_hidden_layers for member in again.members] == [1, 2, 1, 1]
    batch = make_batch(2)
    found, expected = again(**batch), committee(**batch)
    assert torch.equal(found.member_logits, expected.member_logits)
    assert torch.equal(found.logits, expected.logits)
    for (_, stock), vote in zip(members, found.member_logits.unbind(dim=1), strict=False):
        close(vote, stock(**batch).logits)
    again.save_pretrained(tmp_path / "again")
    configs = [(tmp_path / name / "config.json").read_text(encoding="utf-8") for name in ("committee", "again")]
    assert configs[0] == configs[1]
    assert "member-0" not in configs[0]
    again.config.save_pretrained(tmp_path / "config")
    assert (tmp_path / "config" / "configuration_committee.py").is_file()


def test_what_is_said_of_doubt_outlives_mixed_precision(build_pair):
    for problem, names in (("multi_label_classification", "entropy agreement"), ("regression", "spread")):
        shape = LABELS if "multi" in problem else {"num_labels": 1}
        members = [build_pair("classifier", problem_type=problem, **shape)[0].eval() for _ in range(2)]
        output = CommitteeForSequenceClassification.from_members(members)(**make_batch(3))
        again = convert_to_fp32(output)  # what Accelerate puts around `forward`
        for name in names.split():
            assert torch.equal(again.uncertainty[name], output.uncertainty[name])


def test_a_member_can_be_split_off_as_stock_bert(members, tmp_path):
    CommitteeForSequenceClassification.from_members([ours for ours, _ in members]).save_pretrained(tmp_path / "all")
    committee = CommitteeForSequenceClassification.from_pretrained(tmp_path / "all")
    batch = make_batch(3)
    for position, (_, stock) in enumerate(members):
        committee.members[position].save_pretrained(tmp_path / f"{position}")
        alone, report = BertForSequenceClassification.from_pretrained(
            tmp_path / f"{position}", output_loading_info=True
        )
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert alone.config.id2label == LABELS["id2label"]
        close(alone(**batch).logits, stock(**batch).logits)


def test_trainer_predicts_one_array(members, tmp_path):
    committee = CommitteeForSequenceClassification.from_members([ours for ours, _ in members])
    batch = make_batch(6)
    rows = [{**{name: value[row] for name, value in batch.items()}, "labels": torch.tensor(1)} for row in range(4)]
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, disable_tqdm=True)
    predicted = Trainer(committee, arguments).predict(rows)
    votes = np.stack([stock(**batch).logits.detach().numpy() for _, stock in members], axis=1).astype(np.float64)
    expected = np.log(softmax(votes, axis=-1).mean(axis=1))
    np.testing.assert_allclose(predicted.predictions, expected, atol=1e-5, rtol=1e-5)
    assert predicted.metrics["test_loss"] == pytest.approx(-expected[:, 1].mean(), abs=1e-5)


def test_what_cannot_vote_together_is_refused_in_one_sentence(build_pair, members, tmp_path):
    join = CommitteeForSequenceClassification.from_members
    good = members[0][0]
    committee = join([good])
    committee.save_pretrained(tmp_path / "committee")
    build_pair("masked_lm")[0].save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="from_members got treshold, but options are for members given by name"):
        join([good], treshold=0.2)
    adapted = build_pair("classifier", **LABELS)[0]
    adapted.add_adapter(LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    committee.train().subset([0])
    assert good.training
    refused = [
        ([good, adapted], "Member 1 has an adapter .*merge it"),
        ([good, build_pair("classifier", id2label={**LABELS["id2label"], 1: "art"})[0]], "Member 1 has the labels"),
        ([good, build_pair("classifier", num_labels=2)[0]], "Member 1 has the labels"),
        ([good, build_pair("classifier", vocab_size=61, **LABELS)[0]], "Member 1 has a vocabulary of 61"),
        ([good, build_pair("masked_lm")[1]], "Member 1 .*without a classifier"),
        ([good, committee], "Member 1 is itself a committee"),
        ([good, str(tmp_path / "committee")], "Member 1 is itself a committee"),
        ([good, str(tmp_path / "encoder")], "Member 1 .*without a classifier"),
        ([build_pair("classifier", problem_type="regression", **LABELS)[0]], "Member 0 has 3 values"),
        ([good, build_pair("classifier", num_labels=1)[0]], "Member 1 .*regression"),
        (
            [good, build_pair("classifier", problem_type="multi_label_classification", **LABELS)[0]],
            "Member 1 .*multi_label_classification",
        ),
    ]
    for candidates, sentence in refused:
        assert re.search(sentence, refusal(join, candidates, error=ValueError))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"labels": torch.rand(4)}, "takes class ids"),
        ({"labels": torch.zeros((4, 3), dtype=torch.long)}, "takes class ids"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(4, 9, 24)}, "each member has other word embeddings"),
    ],
)
def test_inputs_that_the_members_cannot_share_are_refused_in_one_sentence(members, inputs, sentence):
    committee = CommitteeForSequenceClassification.from_members([members[0][0]])
    assert re.search(sentence, refusal(committee, **{**make_batch(), **inputs}, error=ValueError))


def test_a_pickle_after_the_first_answer_is_no_larger_and_an_edited_weight_counts_at_once(members):
    committee = CommitteeForSequenceClassification.from_members([ours for ours, _ in members])
    batch, size = make_batch(), len(pickle.dumps(committee))
    with torch.no_grad():
        committee(**batch)
        assert len(pickle.dumps(committee)) == size
        for ours, stock in members:  # in place, part of a view, and another storage
            for model in (ours, stock):
                attention = model.bert.encoder.layer[0].attention.self
                attention.query.weight.data[1:4] += 0.7
                model.classifier.weight.data = 2 * model.classifier.weight.data
        votes = torch.stack([stock(**batch).logits for _, stock in members], dim=1)
        for answers in (committee, pickle.loads(pickle.dumps(committee))):
            close(answers(**batch).member_logits, votes)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"problem_type": "regression", "num_labels": 1, "temperature": 2.0}, "no temperature"),
        ({"problem_type": "ranking"}, "choose single_label_classification"),
        ({"combination": "median"}, "combination is 'median'"),
        ({"temperature": 0.0}, "must be positive"),
        ({"temperature": float("nan")}, "must be positive"),
        ({"member_configs": [{"vocab_size": 5}, {"vocab_size": 6}]}, "5.*6"),
    ],
)
def test_contradicting_configuration_is_refused(fields, sentence):
    with pytest.raises(StrictDataclassError, match=sentence):
        CommitteeConfig(**fields)
