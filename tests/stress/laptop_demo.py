"""A demonstration for the Space in the shapes of the `laptop` size, with new weights: speed does not depend on them.

    TLM_DATA=... python tests/stress/laptop_demo.py outputs/laptop-demo

Takes minutes where training the study's models takes hours (`tlm study demo` makes the folder of those). Its findings
are the study's; its answers mean nothing, so no picture of them is shown anywhere.
"""

import argparse
import os
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tlm_hf import CommitteeForSequenceClassification, TLMForMaskedLM, TLMForSequenceClassification  # noqa: E402
from tlm_hf.data.corpora import load_corpus  # noqa: E402
from tlm_hf.data.tasks import class_names, load_task  # noqa: E402
from tlm_hf.data.tokenization import train_wordpiece  # noqa: E402
from tlm_hf.hub.demo_data import DemoTask, stage_demo  # noqa: E402
from tlm_hf.recipes import build_config, find_size  # noqa: E402
from tlm_hf.study.demo import MOST_MEMBERS, TITLES  # noqa: E402
from tlm_hf.study.plan_file import read_plan  # noqa: E402

SIZE, TEXTS = "laptop", 20_000


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not os.environ.get("TLM_DATA"):
        parser.error("set TLM_DATA to the folder of real text")
    torch.manual_seed(0)
    corpus = load_corpus("wikipedia", num_texts=TEXTS)["train"]["text"][:]
    size = find_size(SIZE)
    tokenizer = train_wordpiece(corpus, size.vocab_size, size.max_length)

    def keep(name, model):
        model.eval().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        return folder / name

    def classifier(recipe, labels):
        config = build_config(recipe, SIZE)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: place for place, label in enumerate(labels)}
        return TLMForSequenceClassification(config)

    tasks = []
    for name, options in read_plan(SIZE).tasks.items():
        splits = load_task(name, **options)
        labels = class_names(splits)
        members = [classifier("bert-1", labels) for _ in range(MOST_MEMBERS)]
        committee = keep(f"{name}-committee", CommitteeForSequenceClassification.from_members(members))
        tasks.append(
            DemoTask(name, TITLES[name], committee, keep(f"{name}-deep", classifier("bert-6", labels)), splits)
        )
    encoders = {recipe: keep(recipe, TLMForMaskedLM(build_config(recipe, SIZE))) for recipe in ("bert-1", "bert-6")}
    rows = ROOT / "results" / "study" / SIZE / "rows.json"
    print(stage_demo(folder / "demo", tasks, encoders, f"wikipedia, {TEXTS:,} texts", corpus, rows))


if __name__ == "__main__":
    main()
