"""Training a committee as one model, so that each member learns what it would learn alone on the same batches."""

from typing import Any

import torch
from transformers import Trainer

from ..modeling_committee import CommitteeForSequenceClassification


class CommitteeTrainer(Trainer):
    """transformers' Trainer for a `CommitteeForSequenceClassification`.

    The loss is the sum of the members' own, so each member's gradients are those of its training apart; here they are
    also clipped member by member (`max_grad_norm` bounds each member's norm, where Trainer would bound that of all
    together). AdamW works on each weight alone, so the weights after any number of steps are those of members trained
    apart on the same batches, to rounding, with dropout 0. The logged loss is the members' mean.

    Raises:
        TypeError: the model is no committee.
    """

    def __init__(self, model: Any = None, *args: Any, **kwargs: Any) -> None:
        if not isinstance(model, CommitteeForSequenceClassification):
            raise TypeError(
                f"CommitteeTrainer trains a CommitteeForSequenceClassification, not a {type(model).__name__}: build "
                "one with from_members."
            )
        super().__init__(model, *args, **kwargs)

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        """Clip each member; returns the norm of all gradients before it."""
        committee = self.accelerator.unwrap_model(model)
        norms = [
            self.accelerator.clip_grad_norm_(member.parameters(), self.args.max_grad_norm)
            for member in committee.members
        ]
        return torch.linalg.vector_norm(torch.stack([torch.as_tensor(norm) for norm in norms]))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's, with the training loss of the mean member."""
        for name in ("loss", "train_loss"):
            if name in logs:
                logs[name] /= len(self.accelerator.unwrap_model(self.model))
        super().log(logs, start_time)
