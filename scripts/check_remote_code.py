"""Open model folders with trust_remote_code under whatever transformers is installed, and print what they compute.

Needs torch and transformers alone, so that it runs in an environment with an old transformers; compare its lines
between two versions to find the oldest on which the remote code works (`OLDEST_TRANSFORMERS` in configuration_tlm.py):

    python scripts/check_remote_code.py outputs/quickstart/release/*
"""

import json
import sys
from pathlib import Path

import torch
import transformers


def describe(folder: Path) -> str:
    """Class and mean absolute output of the model in `folder` on fixed token ids, in training and in evaluation."""
    config = json.loads((folder / "config.json").read_text())
    is_lm = any("MaskedLM" in name for name in config["architectures"])
    auto = transformers.AutoModelForMaskedLM if is_lm else transformers.AutoModelForSequenceClassification
    model = auto.from_pretrained(str(folder), trust_remote_code=True)
    ids = torch.arange(5, 25).reshape(2, 10)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = torch.where(ids % 3 == 0, ids, -100) if is_lm else torch.tensor([0, 1])
    found = []
    for training in (True, False):
        model.train(training)
        torch.manual_seed(0)
        output = model(input_ids=ids, attention_mask=mask, labels=labels)
        found.append(f"{output.loss.item():.5f} {output.logits.abs().mean().item():.5f}")
    return f"{folder.name}: {type(model).__name__} {' | '.join(found)}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(describe(Path(name)))
