"""Pre-train with transformers' own `Trainer` and our collator: `python examples/stock_trainer.py TEXTS OUTPUT`.

The tokenizer is trained on the texts (one a line). Called again, it continues from the last checkpoint.
"""

import sys
from pathlib import Path

import datasets
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from tlm_hf import MaskingCollator, TLMConfig, TLMForMaskedLM, train_wordpiece


def main(corpus: str, output: str, steps: int = 1000) -> None:
    """Train a one-layer encoder of width 128 on the lines of a file."""
    texts = [line for line in Path(corpus).read_text(encoding="utf-8").splitlines() if line.strip()]
    tokenizer = train_wordpiece(texts, vocab_size=8000, max_length=64)
    rows = datasets.Dataset.from_dict({"input_ids": tokenizer(texts, truncation=True)["input_ids"]})
    rows = rows.add_column("item", range(len(rows)))  # what the masks of a row are drawn from
    config = TLMConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=1, num_attention_heads=2, intermediate_size=512
    )
    arguments = TrainingArguments(
        output, max_steps=steps, learning_rate=2e-3, warmup_steps=0.1, save_steps=500, remove_unused_columns=False,
        per_device_train_batch_size=32, report_to="none",
    )  # fmt: skip
    trainer = Trainer(TLMForMaskedLM(config), arguments, MaskingCollator(tokenizer), rows, processing_class=tokenizer)
    Path(output).mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output))
    trainer.save_model()  # a stock BERT


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
