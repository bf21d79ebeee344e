# Copyright 2026 The tlm_hf contributors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""How the members' votes become the committee's, and what their disagreement says.

This file travels to the Hub as remote code; it needs torch and transformers only. z_k are the logits of member k,
p_k = softmax(z_k), w_k its weight (1/K each by default, non-negative, of sum 1), T the temperature. `combine` returns
logits whose softmax is the committee's probability:

    probabilities   log(sum_k w_k p_k) / T, the soft committee of arXiv 2507.14871, by logsumexp
    logits          (sum_k w_k z_k) / T, the normalised geometric mean of the p_k
    vote            log(share of the weight that votes for a class) / T, at least log(LEAST_SHARE), hence finite

The uncertainty is that of the mixture sum_k w_k p_k, whatever the combination (Depeweg et al., ICML 2018, section 2):
its entropy is the members' mean entropy (doubt in the text) plus the mutual information (doubt among the members).
"""

import math
from dataclasses import dataclass

import torch
from transformers.modeling_outputs import ModelOutput

COMBINATIONS = ("probabilities", "logits", "vote")
LEAST_SHARE = 1e-6
"""A class without a vote is taken for this probability."""


def log_weights(member_logits: torch.Tensor, member_weights: list[float] | torch.Tensor | None) -> torch.Tensor | float:
    """Log w_k, (members, 1) in float32; a number for equal weights."""
    members = member_logits.shape[1]
    if member_weights is None:
        return -math.log(members)
    if len(member_weights) != members:
        raise ValueError(f"There are {len(member_weights)} member weights for {members} members: give one for each.")
    return torch.as_tensor(member_weights, dtype=torch.float32, device=member_logits.device).log()[:, None]


def combine(
    member_logits: torch.Tensor,
    combination: str = "probabilities",
    member_weights: list[float] | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Join the members' logits (this file's head has the formulas).

    Args:
        member_logits: (batch, members, num_labels).
        combination: one of `COMBINATIONS`.
        member_weights: one for each member, non-negative, of sum 1; None for equal ones.
        temperature: positive.

    Returns:
        float32 (batch, num_labels).

    Raises:
        ValueError: unknown combination, or not one weight for each member.
    """
    votes, weights = member_logits.float(), log_weights(member_logits, member_weights)
    if combination == "probabilities":
        joined = (votes.log_softmax(dim=-1) + weights).logsumexp(dim=1)
    elif combination == "logits":
        joined = (votes * (math.exp(weights) if isinstance(weights, float) else weights.exp())).sum(dim=1)
    elif combination == "vote":
        ballots = torch.nn.functional.one_hot(votes.argmax(dim=-1), votes.shape[-1]).float()
        shares = (ballots * (math.exp(weights) if isinstance(weights, float) else weights.exp())).sum(dim=1)
        joined = shares.clamp(min=LEAST_SHARE).log()
    else:
        raise ValueError(f"There is no combination {combination!r}: choose one of {', '.join(COMBINATIONS)}.")
    return joined / temperature


def entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy in nats over the last dimension: (..., num_labels) to (...)."""
    return -(log_probabilities.exp() * log_probabilities.clamp(min=-1e4)).sum(dim=-1)


def uncertainty(
    member_logits: torch.Tensor, member_weights: list[float] | torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """How unsure the committee is of each text, and why.

    Args:
        member_logits: (batch, members, num_labels).
        member_weights: as in `combine`.

    Returns:
        Each float32 (batch,): `entropy` of the members' mean probability, in nats; `expected_entropy`, the members'
        mean entropy; `mutual_information`, the former minus the latter (0 where all agree); `agreement`, the share of
        the weight that votes for the class with the most, 1 where all agree.
    """
    logs, weights = member_logits.float().log_softmax(dim=-1), log_weights(member_logits, member_weights)
    shares = torch.full((logs.shape[1], 1), math.exp(weights)) if isinstance(weights, float) else weights.exp()
    shares = shares.to(logs.device)
    total = entropy((logs + weights).logsumexp(dim=1))
    expected = (entropy(logs) * shares[:, 0]).sum(dim=1)
    ballots = torch.nn.functional.one_hot(logs.argmax(dim=-1), logs.shape[-1]).float()
    return {
        "entropy": total,
        "expected_entropy": expected,
        "mutual_information": (total - expected).clamp(min=0),
        "agreement": (ballots * shares).sum(dim=1).amax(dim=-1),
    }


@dataclass
class CommitteeOutput(ModelOutput):  # trf-ignore: TRF057
    """Output of a committee; what its members disagree about is worked out when it is asked for.

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*):
            In training mode the sum of the members' own cross-entropies; in evaluation mode the cross-entropy of
            `logits`. The two differ (Jensen's inequality).
        logits (`torch.Tensor` of shape `(batch, num_labels)`):
            The committee's: their softmax is its probability. By default the log of the members' mean probability,
            divided by the temperature.
        member_logits (`torch.Tensor` of shape `(batch, members, num_labels)`):
            Each member's own logits.
        member_weights (`torch.Tensor` of shape `(members,)`, *optional*):
            The members' weights where they are not equal.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    member_logits: torch.Tensor | None = None
    member_weights: torch.Tensor | None = None

    @property
    def uncertainty(self) -> dict[str, torch.Tensor]:
        """See `uncertainty` above: four tensors (batch,)."""
        if self.member_logits is None:
            raise ValueError("This output has no member_logits, so it cannot tell how unsure the members are.")
        return uncertainty(self.member_logits, self.member_weights)

    @property
    def entropy(self) -> torch.Tensor:
        """Entropy of the members' mean probability in nats, (batch,)."""
        return self.uncertainty["entropy"]

    @property
    def expected_entropy(self) -> torch.Tensor:
        """Mean of the members' entropies in nats, (batch,): doubt in the text itself."""
        return self.uncertainty["expected_entropy"]

    @property
    def mutual_information(self) -> torch.Tensor:
        """`entropy` minus `expected_entropy` in nats, (batch,): doubt among the members."""
        return self.uncertainty["mutual_information"]

    @property
    def agreement(self) -> torch.Tensor:
        """Share of the members that vote for the class with the most votes, (batch,)."""
        return self.uncertainty["agreement"]


__all__ = ["COMBINATIONS", "LEAST_SHARE", "CommitteeOutput", "combine", "uncertainty"]
