"""Training a committee as one model, so that each member learns what it would learn alone on the same batches."""

from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from ..models.modeling_committee import CommitteeForSequenceClassification


class CommitteeTrainer(Trainer):
    """transformers' Trainer for a `CommitteeForSequenceClassification`, with the logged loss of the mean member.

    The loss is the sum of the members' own and gradients are clipped member by member, so the weights after any number
    of steps are those of members trained apart on the same batches, to rounding, with dropout 0.

    Raises:
        TypeError: the model is not a committee.
        ValueError: label smoothing, or a loss of the user's own, which would be taken of the committee's logits; FSDP
            or DeepSpeed, under which no process has a member's whole gradient.
    """

    def __init__(self, model: Any = None, *args: Any, **kwargs: Any) -> None:
        if not isinstance(model, CommitteeForSequenceClassification):
            raise TypeError(
                f"CommitteeTrainer trains a CommitteeForSequenceClassification, not a {type(model).__name__}: build "
                "one with from_members."
            )
        super().__init__(model, *args, **kwargs)
        if self.label_smoother is not None or self.compute_loss_func is not None:
            raise ValueError(
                "CommitteeTrainer sums the members' own losses: leave label_smoothing_factor and compute_loss_func out."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("CommitteeTrainer clips member by member, which FSDP and DeepSpeed cannot: train by DDP.")

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        self.accelerator.unscale_gradients()  # once, which clipping by Accelerate would do for each member
        limit, members = self.args.max_grad_norm, self.accelerator.unwrap_model(model).members
        norms = [torch.nn.utils.clip_grad_norm_(member.parameters(), limit) for member in members]
        return torch.linalg.vector_norm(torch.stack(norms))

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trainer's; `training_loss` is that of the mean member."""
        output = super().train(*args, **kwargs)
        return output._replace(training_loss=output.training_loss / len(self.accelerator.unwrap_model(self.model)))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's, with the training loss of the mean member."""
        for name in {"loss", "train_loss"} & logs.keys():
            logs[name] /= len(self.accelerator.unwrap_model(self.model))
        super().log(logs, start_time)
