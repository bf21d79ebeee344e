"""Judge ways of fine-tuning on the encoders that `scripts/search.py` has pre-trained.

python scripts/search_finetuning.py --results results/training/search-finetuning.json \
    --encoders outputs/search/30-minutes-0/encoder outputs/search/30-minutes-1/encoder

Rates, layer-wise rates and pooling in a plain loop: AdamW, a rate that is warmed up and lowered to 0, dropout 0.1,
the best epoch of 8 on validation texts.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from search import TASKS, points
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import get_linear_schedule_with_warmup

from tlm_hf.data.tasks import load_task
from tlm_hf.data.tokenization import load_tokenizer
from tlm_hf.loading import load_for_finetuning
from tlm_hf.runs.atomic_files import write_json
from tlm_hf.runs.provenance import provenance
from tlm_hf.runs.quiet import quiet_libraries
from tlm_hf.study.estimates import Answers, mean_difference
from tlm_hf.training.options import has_fast_bf16

EPOCHS, BATCH, WARMUP, DROPOUT = 8, 32, 0.1, 0.1


class Variant(NamedTuple):
    """`rate` and `embeddings` are shares of the task's rate and of that; `mean` pools all states in place of [CLS]."""

    rate: float = 1.0
    embeddings: float = 1.0
    mean: bool = False


VARIANTS = {
    "the default": Variant(),
    "a third of the rate": Variant(rate=1 / 3),
    "three times the rate": Variant(rate=3.0),
    "embeddings at a third": Variant(embeddings=1 / 3),
    "embeddings at a tenth": Variant(embeddings=0.1),
    "embeddings fixed": Variant(embeddings=0.0),
    "mean pooling": Variant(mean=True),
}


def classify(model: Any, ids: torch.Tensor, mask: torch.Tensor, mean: bool) -> torch.Tensor:
    """Logits (texts, classes) from token ids and mask (texts, tokens); `mean`: the pooler reads the mean of states."""
    if not mean:
        return model(ids, mask).logits
    states, known = model.bert(ids, mask).last_hidden_state, mask[..., None]
    pooled = model.bert.pooler.activation(model.bert.pooler.dense((states * known).sum(1) / known.sum(1)))
    return model.classifier(model.dropout(pooled))


def tune(encoder: str, rows: dict[str, tuple], classes: int, rate: float, variant: Variant, seed: int) -> np.ndarray:
    """Which validation texts the best epoch has right."""
    torch.manual_seed(seed)
    names = [str(number) for number in range(classes)]
    model = load_for_finetuning(encoder, names, dropout=DROPOUT, from_scratch=False)
    first = model.bert.embeddings.requires_grad_(variant.embeddings > 0)
    words = {id(each) for each in first.parameters()}
    rate *= variant.rate
    groups: list[dict[str, Any]] = [{"params": [each for each in model.parameters() if id(each) not in words]}]
    groups += [{"params": list(first.parameters()), "lr": rate * variant.embeddings}] if variant.embeddings else []
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.01, fused=True)
    ids, mask, labels = rows["train"]
    batches = -(-len(labels) // BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP * EPOCHS * batches), EPOCHS * batches)
    best = np.zeros(1)
    for _ in range(EPOCHS):
        model.train()
        for chosen in torch.randperm(len(labels)).split(BATCH):
            width = int(mask[chosen].sum(1).max())
            with torch.autocast("cpu", enabled=has_fast_bf16()):
                logits = classify(model, ids[chosen, :width], mask[chosen, :width], variant.mean)
            cross_entropy(logits.float(), labels[chosen]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        model.eval()
        with torch.inference_mode():
            some = zip(*(each.split(128) for each in rows["validation"][:2]), strict=True)
            found = torch.cat([classify(model, ids, mask, variant.mean).argmax(1) for ids, mask in some])
        right = (found == rows["validation"][2]).numpy()
        best = right if right.mean() > best.mean() else best
    return best


def read(task: str, sizes: Any, tokenizer: Any) -> tuple[dict[str, tuple], int]:
    """Token ids, mask and labels of the splits, and the number of classes."""
    data, rows = load_task(task, **sizes), {}
    for split in ("train", "validation"):
        batch = tokenizer(data[split]["text"][:], truncation=True, padding=True, return_tensors="pt")
        rows[split] = batch["input_ids"], batch["attention_mask"], torch.tensor(data[split]["label"][:])
    return rows, data["train"].features["label"].num_classes


def main(argv: Sequence[str] | None = None) -> None:
    """Write and print the table after each encoder and variant."""
    quiet_libraries()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, help="JSON file, written anew")
    parser.add_argument("--encoders", required=True, nargs="+", help="folders; the seed is their number")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    tasks = {task: read(task, sizes, load_tokenizer(arguments.encoders[0])) for task, (_, sizes) in TASKS.items()}
    right: dict[tuple[str, str], list[np.ndarray]] = {}
    for (seed, encoder), (name, variant) in itertools.product(enumerate(arguments.encoders), VARIANTS.items()):
        for task, (rate, _) in TASKS.items():
            right.setdefault((name, task), []).append(tune(encoder, *tasks[task], rate, variant, seed))
        rows = []
        for each in {name: None for name, _ in right}:
            row: dict[str, Any] = {"variant": each, "seeds": len(right[each, task])}
            pairs = []
            for number, task in enumerate(TASKS):
                ours, theirs = right[each, task], right["the default", task][: len(right[each, task])]
                pairs.append([Answers(np.array(some, dtype=float), seed=number) for some in (ours, theirs)])
                row |= {task: round(float(np.mean(ours)), 4), f"gain {task}": points(mean_difference([pairs[-1]]))}
            rows.append({**row, "gain": points(mean_difference(pairs))})
        write_json(Path(arguments.results), {"table": rows, **provenance()})
        print(pd.DataFrame(rows).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
