# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""How the members' logits become the committee's, and what their disagreement says.

This file travels to the Hub as remote code. With z_k the logits of member k of K, p_k = softmax(z_k) and T the
temperature, `combine` returns logits whose softmax is the committee's probability:

    probabilities   log(mean over k of p_k) / T, the soft committee of arXiv 2507.14871, by logsumexp
    logits          (mean over k of z_k) / T, the normalised geometric mean of the p_k
"""

import math
from dataclasses import dataclass

import torch
from transformers.modeling_outputs import ModelOutput

COMBINATIONS = ("probabilities", "logits")


def combine(member_logits: torch.Tensor, combination: str = "probabilities", temperature: float = 1.0) -> torch.Tensor:
    """Join the members' logits (batch, members, num_labels) to float32 (batch, num_labels)."""
    if combination == "probabilities":
        return log_mean_probability(member_logits) / temperature
    if combination == "logits":
        return member_logits.float().mean(dim=1) / temperature
    raise ValueError(f"There is no combination {combination!r}: choose one of {', '.join(COMBINATIONS)}.")


def log_mean_probability(member_logits: torch.Tensor) -> torch.Tensor:
    """Log of the members' mean probability: (batch, members, num_labels) to float32 (batch, num_labels)."""
    log_share = -math.log(member_logits.shape[1])
    return (member_logits.float().log_softmax(dim=-1) + log_share).logsumexp(dim=1)


def entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy in nats over the last dimension: (..., num_labels) to (...)."""
    return -(log_probabilities.exp() * log_probabilities.clamp(min=-1e4)).sum(dim=-1)


def uncertainty(member_logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """How unsure the committee is of each text, and why, from logits (batch, members, num_labels).

    Each float32 (batch,): `entropy` of the members' mean probability, in nats; `expected_entropy`, the members' mean
    entropy (doubt in the text); `mutual_information`, the difference (doubt among the members: Depeweg et al., ICML
    2018, section 2); `agreement`, the largest share of members that prefer one class.
    """
    total = entropy(log_mean_probability(member_logits))
    expected = entropy(member_logits.float().log_softmax(dim=-1)).mean(dim=1)
    preferred = torch.nn.functional.one_hot(member_logits.argmax(dim=-1), member_logits.shape[-1])
    return {
        "entropy": total,
        "expected_entropy": expected,
        "mutual_information": (total - expected).clamp(min=0),
        "agreement": preferred.float().mean(dim=1).amax(dim=-1),
    }


@dataclass
class CommitteeOutput(ModelOutput):  # trf-ignore: TRF057
    """Output of a committee; the uncertainty is computed when it is read.

    Args:
        loss: in training the sum of the members' cross-entropies; else that of `logits` (by Jensen's inequality less).
        logits: float32 (batch, num_labels), whose softmax is the committee's probability.
        member_logits: (batch, members, num_labels).
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    member_logits: torch.Tensor | None = None

    @property
    def uncertainty(self) -> dict[str, torch.Tensor]:
        """See `uncertainty` above: four tensors (batch,)."""
        return uncertainty(self.member_logits)  # type: ignore[arg-type]


__all__ = ["COMBINATIONS", "CommitteeOutput", "combine", "uncertainty"]
