"""Ways to combine the members' logits, and the uncertainty, against numpy and scipy."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from tlm_hf.models.combination_committee import COMBINATIONS, combine, uncertainty

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 7))
SCALES = st.sampled_from([0.1, 1.0, 30.0, 1000.0])


def draw(shape, scale):
    return (np.random.default_rng(0).normal(size=shape) * scale).astype(np.float32)


@given(shape=SHAPES, scale=SCALES, temperature=st.sampled_from([0.5, 1.0, 3.0]))
def test_probabilities_shown_are_those_of_the_formula(shape, scale, temperature):
    member_logits = draw(shape, scale)
    exact = member_logits.astype(np.float64)
    expected = {
        "probabilities": np.log(softmax(exact, axis=-1).mean(axis=1) + 1e-300) / temperature,
        "logits": exact.mean(axis=1) / temperature,
    }
    for name in COMBINATIONS:
        logits = combine(torch.tensor(member_logits), name, temperature).numpy()
        assert logits.shape == (shape[0], shape[2])
        assert np.isfinite(logits).all()
        np.testing.assert_allclose(
            softmax(logits, axis=-1), softmax(expected[name], axis=-1), atol=1e-5 * max(scale, 1)
        )


@given(shape=SHAPES, scale=SCALES)
def test_uncertainty_is_scipys_entropy(shape, scale):
    member_logits = draw(shape, scale)
    each = softmax(member_logits.astype(np.float64), axis=-1)
    expected = {
        "entropy": entropy(each.mean(axis=1), axis=-1),
        "expected_entropy": entropy(each, axis=-1).mean(axis=1),
        "agreement": np.eye(shape[2])[member_logits.argmax(-1)].mean(axis=1).max(-1),
    }
    expected["mutual_information"] = expected["entropy"] - expected["expected_entropy"]
    measured = uncertainty(torch.tensor(member_logits))
    assert set(measured) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(measured[name].numpy(), values, atol=2e-5, err_msg=name)
    spread = uncertainty(torch.tensor(member_logits[..., :1]), "regression")["spread"]
    np.testing.assert_allclose(spread, member_logits[..., 0].std(axis=1), rtol=1e-4, atol=1e-6)
