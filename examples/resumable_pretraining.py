"""A training loop of your own that can be killed: `python examples/resumable_pretraining.py ENCODER texts.txt OUTPUT`.

ENCODER is a folder with model and tokenizer. Masks and dropout follow from the step, so a continued run
ends with the same weights; a checkpoint is renamed into place, so it is whole or not there.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from tlm_hf import MaskingCollator, TLMForMaskedLM

BATCH, EVERY = 32, 50


def main(encoder: str, corpus: str, output: str, steps: int = 1000) -> None:
    """Train for so many steps in all, over all calls."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    lines = Path(corpus).read_text(encoding="utf-8").splitlines()
    ids = tokenizer([line for line in lines if line.strip()], truncation=True)["input_ids"]
    collator = MaskingCollator(tokenizer, mlm_probability=0.3)
    model = TLMForMaskedLM.from_pretrained(encoder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), fused=True)
    checkpoint, first = Path(output, "checkpoint.pt"), 0
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    for step in range(first, steps):
        torch.manual_seed(step)  # of dropout
        items = range(step * BATCH, (step + 1) * BATCH)
        loss = model(**collator([{"input_ids": ids[item % len(ids)], "item": item} for item in items])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").rename(checkpoint)
            sys.stdout.write(f"step {step + 1}: {loss.item():.3f} nats\n")
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
