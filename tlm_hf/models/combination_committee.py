# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""How the members' logits become the committee's, and what their disagreement says.

With z_k the logits of member k of K, p_k = softmax(z_k) and T the
temperature, `combine` returns logits whose softmax is the committee's probability:

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
        present, absent = log_mean_probability(beside_zero(member_logits)).unbind(dim=-1)
        return (present - absent) / temperature
    return log_mean_probability(member_logits) / temperature


def beside_zero(logits: Tensor) -> Tensor:
    """Logits (..., num_labels) of labels that are there or not, as those of two classes: (..., num_labels, 2)."""
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


def log_mean_probability(member_logits: Tensor) -> Tensor:
    """Log of the members' mean probability: (batch, members, ..., classes) to float32 (batch, ..., classes)."""
    log_share = -math.log(member_logits.shape[1])
    return (member_logits.float().log_softmax(dim=-1) + log_share).logsumexp(dim=1)


def entropy(log_probabilities: Tensor) -> Tensor:
    """Entropy in nats over the last dimension: (..., num_labels) to (...)."""
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
        by_label = uncertainty(beside_zero(member_logits))
        return {name: each.amin(1) if name == "agreement" else each.sum(1) for name, each in by_label.items()}
    total = entropy(log_mean_probability(member_logits))
    expected = entropy(member_logits.float().log_softmax(dim=-1)).mean(dim=1)
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
        raise ValueError(
            f"A committee of {problem_type or SINGLE} takes {asked} as labels, not {labels.dtype} {shape}."
        )
    if several:
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    if floating:
        return F.mse_loss(logits[:, 0].float(), labels.float())
    return F.cross_entropy(logits.float(), labels)


@dataclass
class CommitteeOutput(ModelOutput):  # trf-ignore: TRF057
    """Output of a committee; the uncertainty is computed when it is read.

    Args:
        loss: in training the sum of the members' losses; else that of `logits` (by Jensen's inequality less).
        logits: float32 (batch, num_labels), whose softmax (with several labels: sigmoid) is the committee's
            probability; of a regression its values.
        member_logits: (batch, members, num_labels).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    member_logits: Tensor | None = None
    problem_type = SINGLE  # not a field: what it holds is tensors

    @property
    def uncertainty(self) -> dict[str, Tensor]:
        """See `uncertainty` above."""
        return uncertainty(self.member_logits, self.problem_type)  # type: ignore[arg-type]


def committee_output(
    member_logits: Tensor, labels: Tensor | None, config: Any, training: bool = False
) -> CommitteeOutput:
    """The output of members' logits (batch, members, num_labels), as the committee's configuration says."""
    logits = combine(member_logits, config.combination, config.temperature, config.problem_type)
    loss = None
    if labels is not None and training:
        loss = torch.stack([loss_of(each, labels, config.problem_type) for each in member_logits.unbind(dim=1)]).sum()
    elif labels is not None:
        loss = loss_of(logits, labels, config.problem_type)
    output = CommitteeOutput(loss=loss, logits=logits, member_logits=member_logits)
    output.problem_type = config.problem_type
    return output


__all__ = ["COMBINATIONS", "CommitteeOutput", "combine", "uncertainty"]
