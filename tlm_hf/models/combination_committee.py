# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""How the members' logits become the committee's, and what their disagreement says.

With z_k the logits of member k of K, p_k = softmax(z_k) and T the temperature, `combine` returns logits whose softmax
is the committee's probability:

    probabilities   log(mean over k of p_k) / T, the soft committee of arXiv 2507.14871, by logsumexp
    logits          (mean over k of z_k) / T, the normalised geometric mean of the p_k

With several labels a text, p_k = sigmoid(z_k) for each label, as softmax of (z_k, 0). A regression takes the mean.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput

COMBINATIONS = ("probabilities", "logits")
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
"""Values of `problem_type`: one class a text, several, or a number."""


def combine(
    member_logits: Tensor,
    combination: str = "probabilities",
    temperature: float = 1.0,
    problem_type: str | None = SINGLE,
) -> Tensor:
    """Join the members' logits (batch, members, num_labels) to float32 (batch, num_labels)."""
    if combination not in COMBINATIONS:
        raise ValueError(f"There is no combination {combination!r}: choose one of {', '.join(COMBINATIONS)}.")
    if combination == "logits" or problem_type == REGRESSION:
        return member_logits.float().mean(dim=1) / temperature
    if problem_type == MULTI:
        present, absent = _log_mean_probability(_beside_zero(member_logits)).unbind(dim=-1)
        return (present - absent) / temperature
    return _log_mean_probability(member_logits) / temperature


def _beside_zero(logits: Tensor) -> Tensor:
    """Each label as two classes, there or not: (..., num_labels) to (..., num_labels, 2)."""
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


def _log_mean_probability(member_logits: Tensor) -> Tensor:
    log_share = -math.log(member_logits.shape[1])
    return (member_logits.float().log_softmax(dim=-1) + log_share).logsumexp(dim=1)


def _entropy(log_probabilities: Tensor) -> Tensor:
    return -(log_probabilities.exp() * log_probabilities.clamp(min=-1e4)).sum(dim=-1)


def uncertainty(member_logits: Tensor, problem_type: str | None = SINGLE) -> dict[str, Tensor]:
    """How unsure the committee is of each text, and why, from logits (batch, members, num_labels).

    Each float32 (batch,): `entropy` of the members' mean probability, in nats; `expected_entropy`, the members' mean
    entropy (doubt in the text); `mutual_information`, the difference (doubt among the members: Depeweg et al., ICML
    2018, section 2); `agreement`, the largest share of members that prefer one class. With several labels a text the
    sum over labels, and the least agreement. Of a regression `spread`, the members' standard deviation.
    """
    if problem_type == REGRESSION:
        return {"spread": member_logits.float().std(dim=1, correction=0)[:, 0]}
    if problem_type == MULTI:
        by_label = uncertainty(_beside_zero(member_logits))
        return {name: each.amin(1) if name == "agreement" else each.sum(1) for name, each in by_label.items()}
    total = _entropy(_log_mean_probability(member_logits))
    expected = _entropy(member_logits.float().log_softmax(dim=-1)).mean(dim=1)
    preferred = F.one_hot(member_logits.argmax(dim=-1), member_logits.shape[-1])
    return {
        "entropy": total,
        "expected_entropy": expected,
        "mutual_information": (total - expected).clamp(min=0),
        "agreement": preferred.float().mean(dim=1).amax(dim=-1),
    }


def loss_of(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """Mean loss of logits (batch, num_labels); raises ValueError for labels that are not of the problem's type.

    Labels are class ids (batch,), or 0. and 1. (batch, num_labels) for several a text, or numbers (batch,).
    """
    several, shape = problem_type == MULTI, tuple(labels.shape)
    floating = several or problem_type == REGRESSION
    if shape != (tuple(logits.shape) if several else (len(logits),)) or labels.is_floating_point() != floating:
        asked = "0. and 1. (batch, num_labels)" if several else "numbers (batch,)" if floating else "class ids (batch,)"
        raise ValueError(f"A {problem_type or SINGLE} committee takes {asked} as labels, not {labels.dtype} {shape}.")
    if several:
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    if floating:
        return F.mse_loss(logits[:, 0].float(), labels.float())
    return F.cross_entropy(logits.float(), labels)


@dataclass
class CommitteeOutput(ModelOutput):  # trf-ignore: TRF057
    """Output of a committee: softmax of `logits` (of several labels sigmoid) is its probability.

    In training `loss` is the sum of the members' losses, else that of `logits` (by Jensen's inequality less).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None  # float32 (batch, num_labels); of a regression the values
    member_logits: Tensor | None = None  # (batch, members, num_labels)
    problem_type = SINGLE  # of the class: Accelerate makes the output anew from its tensors

    @property
    def uncertainty(self) -> dict[str, Tensor]:
        """See `uncertainty` above; computed when it is read."""
        return uncertainty(self.member_logits, self.problem_type)  # type: ignore[arg-type]


@dataclass
class MultiLabelCommitteeOutput(CommitteeOutput):  # trf-ignore: TRF057
    """Of several labels a text."""

    problem_type = MULTI


@dataclass
class RegressionCommitteeOutput(CommitteeOutput):  # trf-ignore: TRF057
    """Of a number a text."""

    problem_type = REGRESSION


OUTPUTS = {MULTI: MultiLabelCommitteeOutput, REGRESSION: RegressionCommitteeOutput}


def committee_output(
    member_logits: Tensor, labels: Tensor | None, config: Any, training: bool = False
) -> CommitteeOutput:
    """The output of members' logits (batch, members, num_labels), as the committee's configuration says."""
    problem_type, loss = config.problem_type, None
    logits = combine(member_logits, config.combination, config.temperature, problem_type)
    if labels is not None:
        parts = member_logits.unbind(dim=1) if training else [logits]
        loss = torch.stack([loss_of(part, labels, problem_type) for part in parts]).sum()
    return OUTPUTS.get(problem_type, CommitteeOutput)(loss=loss, logits=logits, member_logits=member_logits)
