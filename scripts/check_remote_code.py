"""Open model folders with trust_remote_code under whatever transformers is installed, and print what they compute.

Needs torch and transformers alone; equal lines under two versions mean that the remote code works on both:

    python scripts/check_remote_code.py outputs/quickstart/release/*
"""

import sys
from pathlib import Path

import torch
import transformers


def describe(folder: str) -> str:
    """Class and mean absolute output of a model on fixed token ids, in training and in evaluation."""
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    is_lm = any("MaskedLM" in name for name in config.architectures)
    auto = transformers.AutoModelForMaskedLM if is_lm else transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(folder, trust_remote_code=True)
    ids, mask = torch.arange(5, 25).reshape(2, 10), torch.ones(2, 10)
    mask[1, 6:] = 0
    labels = torch.where(ids % 3 == 0, ids, -100) if is_lm else torch.tensor([0, 1])
    outputs = []
    for training in (True, False):
        torch.manual_seed(0)
        output = model.train(training)(input_ids=ids, attention_mask=mask, labels=labels)
        outputs.append(f"{output.loss.item():.5f} {output.logits.abs().mean().item():.5f}")
    return f"{Path(folder).name}: {type(model).__name__} {' | '.join(outputs)}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(describe(name))
