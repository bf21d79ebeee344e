"""A demonstration folder with untrained models, and the Space's server on it in a process of its own."""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import datasets
import torch

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForMaskedLM, TLMForSequenceClassification
from tlm_hf.hub import demo_data

ROOT = Path(__file__).resolve().parent.parent
SPACE = ROOT / "spaces" / "tlm-demo"
LABELS = ["river", "<script>window.hacked = 1</script>", "mill & <b>bridge</b>"]
STARTED = re.compile(r"Running on local URL:\s+(http://\S+)")


def make_demo(folder, tokenizer, sentences, members=3):
    """Stage a demo of random models (larger weights than usual, so that answers differ)."""
    fields = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 16, "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.5,
        "id2label": dict(enumerate(LABELS)), "label2id": {name: place for place, name in enumerate(LABELS)},
    }  # fmt: skip
    torch.manual_seed(5)
    shallow = [TLMForSequenceClassification(TLMConfig(**fields, num_hidden_layers=1)) for _ in range(members)]
    reordered = LABELS[::-1]
    deep_fields = fields | {"id2label": dict(enumerate(reordered)), "label2id": {n: p for p, n in enumerate(reordered)}}
    models = {
        "committee": CommitteeForSequenceClassification.from_members(shallow),
        "deep": TLMForSequenceClassification(TLMConfig(**deep_fields, num_hidden_layers=2)),
        "encoder-1": TLMForMaskedLM(TLMConfig(**fields, num_hidden_layers=1)),
        "encoder-2": TLMForMaskedLM(TLMConfig(**fields, num_hidden_layers=2)),
    }
    for name, model in models.items():
        model.eval().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)})
    rows = {"text": sentences, "label": [place % 3 for place in range(len(sentences))]}
    (folder / "committee/work/data").mkdir(parents=True)
    for place, split in enumerate(("train", "validation", "test")):  # a text is in one split alone
        texts = {"text": [f"{sentence} {'x' * place}" for sentence in sentences], "label": rows["label"]}
        datasets.Dataset.from_dict(texts, features).to_parquet(folder / f"committee/work/data/{split}.parquet")
    (folder / "corpus.txt").write_text("\n".join(map(" ".join, itertools.permutations(sentences, 2))))
    (folder / "rows.json").write_text(json.dumps(STUDY))
    arguments = demo_data.DemoArguments(
        committees=[f"streams={folder}/committee"],
        deep=[f"streams={folder}/deep"],
        encoders=[f"one layer={folder}/encoder-1", f"two layers={folder}/encoder-2"],
        corpus=f"{folder}/corpus.txt",
        study=f"{folder}/rows.json",
        output_dir=f"{folder}/demo",
    )
    demo_data.make_demo(arguments)
    return folder / "demo"


STUDY_ROWS = [
    ("gap", "ag_news", "bert-1", None, "gap", 0.05),
    ("gap", "fewrel", "bert-1", None, "gap", 0.01),
    ("gap", "ag_news", "bert-6", None, "gap", -0.05),
    ("overlap", "ag_news", "bert-1", "high - low", "difference", 0.01),
    ("overlap", "mean of the tasks", "bert-1", "high - low", "difference", 0.05),
    ("committee", "ag_news", "committee of bert-1", 10, "difference from bert-6", -0.04),
    ("committee", "ag_news", "committee of bert-1", 4, "difference from bert-6", 0.04),
]
STUDY = {
    "rows": [
        {
            "finding": finding, "task": task, "model": model, "x": x, "measure": measure, "estimate": value,
            "low": value - 0.02, "high": value + 0.02, "t_low": None, "t_high": None, "seeds": 3,
        }
        for finding, task, model, x, measure, value in STUDY_ROWS
    ],
    "reference": "bert-6",
}  # fmt: skip


class Server:
    """`python app.py` in a process of its own; `url` once it listens, `log` what it printed."""

    def __init__(self, demo, home, app=SPACE, **variables):
        environment = {
            **os.environ, "TLM_DEMO": str(demo), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home),
            "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, str(Path(app) / "app.py")], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.log, self.url = "", None
        threading.Thread(target=self._read, daemon=True).start()
        end = time.monotonic() + 120
        while self.url is None and time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.1)
        assert self.url is not None, self.log

    def _read(self):
        for line in self.process.stdout:
            self.log += line
            found = STARTED.search(line)
            if found:
                self.url = found.group(1)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
