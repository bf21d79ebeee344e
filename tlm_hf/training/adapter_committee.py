"""A committee of LoRA adapters over one shared encoder, through PEFT: less memory than whole members, fewer opinions.

Each adapter is one that `tlm finetune --lora-rank` wrote, from the same encoder with another seed; it brings its own
pooler and classifier. The encoder's weights are held once, so K adapters take little more memory than one member; what
the members share they also get wrong together, so the committee gains less than one of encoders pre-trained apart.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from ..errors import UserError
from ..loading import load_for_finetuning
from ..models.combination_committee import CommitteeOutput, combine
from .adapters import ADAPTER


class AdapterCommittee(nn.Module):
    """Adapters that vote, for inference.

    Args:
        encoder: folder or Hub name of the encoder that was adapted.
        adapters: output folders of `tlm finetune --lora-rank`, or the adapters' own folders.
        labels: class names in label order.

    Raises:
        UserError: no adapters, or a folder without one.
    """

    def __init__(self, encoder: str, adapters: Sequence[str | Path], labels: list[str]) -> None:
        super().__init__()
        if not adapters:
            raise UserError(
                "A committee of adapters needs at least one: name folders that tlm finetune --lora-rank wrote."
            )
        folders = [self._find(Path(folder).expanduser()) for folder in adapters]
        base = load_for_finetuning(encoder, labels, dropout=0.0, from_scratch=False)
        self.names = [f"member_{place}" for place in range(len(folders))]
        self.model = PeftModel.from_pretrained(base, str(folders[0]), adapter_name=self.names[0])
        for name, folder in zip(self.names[1:], folders[1:], strict=True):
            self.model.load_adapter(str(folder), adapter_name=name)
        self.config = SimpleNamespace(num_members=len(self.names), num_labels=len(labels))
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @staticmethod
    def _find(folder: Path) -> Path:
        found = folder / ADAPTER if (folder / ADAPTER).is_dir() else folder
        if not (found / "adapter_config.json").is_file():
            raise UserError(f"{folder} holds no adapter: name a folder that tlm finetune --lora-rank wrote.")
        return found

    def __len__(self) -> int:
        """Number of adapters."""
        return len(self.names)

    @torch.no_grad()
    def forward(self, **batch: Any) -> CommitteeOutput:
        """Let every adapter vote, one after the other, on inputs as `TLMForSequenceClassification` takes them.

        Returns:
            `logits` (batch, num_labels), the log of the mean probability, and `member_logits` (batch, adapters,
            num_labels).
        """
        votes = []
        for name in self.names:
            self.model.set_adapter(name)
            votes.append(self.model(**batch).logits)
        member_logits = torch.stack(votes, dim=1)
        return CommitteeOutput(logits=combine(member_logits), member_logits=member_logits)
