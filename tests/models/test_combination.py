"""Ways to combine votes, and uncertainty, against numpy and scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from tlm_hf import CommitteeConfig, CommitteeForSequenceClassification
from tlm_hf.models.combination_committee import COMBINATIONS, LEAST_SHARE, combine, uncertainty

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 7))
SCALES = st.sampled_from([0.1, 1.0, 30.0])


def draw(shape, scale, weighted):
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(shape[1])).tolist() if weighted else None
    return (rng.normal(size=shape) * scale).astype(np.float32), weights


@given(shape=SHAPES, scale=SCALES, weighted=st.booleans(), temperature=st.sampled_from([0.5, 1.0, 3.0]))
def test_probabilities_shown_are_those_of_the_formula(shape, scale, weighted, temperature):
    votes, weights = draw(shape, scale, weighted)
    shares = np.full(shape[1], 1 / shape[1]) if weights is None else np.array(weights)
    exact = votes.astype(np.float64)
    ballots = np.eye(shape[2])[exact.argmax(axis=-1)]
    expected = {
        "probabilities": np.einsum("bkc,k->bc", softmax(exact, axis=-1), shares),
        "logits": softmax(np.einsum("bkc,k->bc", exact, shares), axis=-1),
        "vote": np.maximum(np.einsum("bkc,k->bc", ballots, shares), LEAST_SHARE),
    }
    for name in COMBINATIONS:
        logits = combine(torch.tensor(votes), name, weights, temperature).numpy()
        assert np.isfinite(logits).all()
        shown = expected[name] ** (1 / temperature)
        np.testing.assert_allclose(softmax(logits, axis=-1), shown / shown.sum(-1, keepdims=True), atol=2e-6)


def test_a_member_of_weight_zero_has_no_say():
    votes = torch.tensor([[[5.0, 0.0], [0.0, 9.0]]])
    for name in COMBINATIONS:
        found, alone = combine(votes, name, [1.0, 0.0]).softmax(-1), combine(votes[:, :1], name).softmax(-1)
        torch.testing.assert_close(found, alone)


@given(shape=SHAPES, scale=SCALES, weighted=st.booleans())
def test_uncertainty_is_scipys_entropy(shape, scale, weighted):
    votes, weights = draw(shape, scale, weighted)
    shares = np.full(shape[1], 1 / shape[1]) if weights is None else np.array(weights)
    each = softmax(votes.astype(np.float64), axis=-1)
    mean = np.einsum("bkc,k->bc", each, shares)
    expected = {
        "entropy": entropy(mean, axis=-1),
        "expected_entropy": entropy(each, axis=-1) @ shares,
        "agreement": np.einsum("bkc,k->bc", np.eye(shape[2])[votes.argmax(-1)], shares).max(-1),
    }
    expected["mutual_information"] = expected["entropy"] - expected["expected_entropy"]
    found = uncertainty(torch.tensor(votes), weights)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), values, atol=2e-5, err_msg=name)


def test_impossible_logits_give_no_nan():
    found = uncertainty(torch.tensor([[[0.0, float("-inf")], [0.0, float("-inf")]]]))
    assert found["entropy"].tolist() == [0.0]
    assert found["agreement"].tolist() == [1.0]


def test_the_output_tells_it_with_the_committees_weights(build_pair):
    models = [build_pair("classifier", seed=seed)[0] for seed in range(3)]
    weights = [0.5, 0.5, 0.0]
    committee = CommitteeForSequenceClassification.from_members(models, combination="vote", member_weights=weights)
    with torch.no_grad():
        output = committee(torch.arange(1, 21).view(4, 5))
    expected = uncertainty(output.member_logits[:, :2])
    for name, values in expected.items():
        torch.testing.assert_close(getattr(output, name), values)
        torch.testing.assert_close(output.uncertainty[name], values)
    ballots = torch.nn.functional.one_hot(output.member_logits[:, :2].argmax(-1), output.logits.shape[-1]).float()
    torch.testing.assert_close(output.logits.exp(), ballots.mean(1).clamp(min=LEAST_SHARE))
    assert output.member_weights.tolist() == weights
    assert set(output) - set(committee.config.keys_to_ignore_at_inference) == {"logits"}  # what Trainer gathers


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"combination": "median"}, "combination is 'median': choose one of probabilities, logits, vote"),
        ({"member_weights": [0.5, 0.6]}, "sum to 1.1: give non-negative weights that sum to 1"),
        ({"member_weights": [1.5, -0.5]}, "non-negative"),
        ({"member_weights": [float("nan"), 0.5]}, "non-negative"),
        ({"member_weights": [1.0]}, "1 member_weights for 2 members"),
    ],
)
def test_contradictions_are_refused_in_one_sentence(build_pair, one_sentence, fields, sentence):
    members = [build_pair("classifier", seed=seed)[0] for seed in range(2)]
    with pytest.raises(ValueError, match=sentence) as caught:
        CommitteeForSequenceClassification.from_members(members, **fields)
    one_sentence(caught.value)
    with pytest.raises(Exception, match=sentence):
        CommitteeConfig(member_configs=[model.config.to_dict() for model in members], **fields)


def test_settings_survive_saving(build_pair, tmp_path):
    models = [build_pair("classifier", seed=seed)[0] for seed in range(2)]
    committee = CommitteeForSequenceClassification.from_members(
        models, temperature=2.0, combination="logits", member_weights=[0.3, 0.7]
    )
    committee.save_pretrained(tmp_path)
    again = CommitteeForSequenceClassification.from_pretrained(tmp_path)
    assert (again.config.combination, again.config.member_weights) == ("logits", [0.3, 0.7])
    ids = torch.arange(1, 13).view(3, 4)
    with torch.no_grad():
        votes = np.stack([model(ids).logits.numpy() for model in models], axis=1)
        expected = log_softmax(np.einsum("bkc,k->bc", votes, [0.3, 0.7]) / 2, axis=-1)
        np.testing.assert_allclose(again(ids).logits.log_softmax(-1), expected, atol=1e-5)
