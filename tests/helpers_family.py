"""A family of trained smoke runs and its release file: 9 repositories, 4 branches and a collection."""

import functools
import os
import re
from pathlib import Path

import yaml
from helpers_commands import TINY_FINETUNING, TINY_PRETRAINING, labelled_rows, shelf, succeed, write_csv
from huggingface_hub import DatasetCard

from tlm_hf.data.tasks import load_task
from tlm_hf.hub.demo_data import DemoTask, stage_demo
from tlm_hf.runs.atomic_files import write_json

OWNER = "tiny-lab"
LABELS = ["farm", "sea"]
SENTENCE = "the cow and the boat"


@functools.cache
def family() -> Path:
    """Folder of the runs, made once; `release.yaml` in it names them. Commands are to be started there."""
    folder = shelf().parent / "family"
    folder.mkdir()
    for name in ("corpus.txt", "encoder", "scratch"):
        (folder / name).symlink_to(shelf() / name)
    before = os.getcwd()
    os.chdir(folder)
    try:
        write_csv(Path("task.csv"), labelled_rows())
        tokenizer = ("--tokenizer", "encoder")
        succeed(
            "pretrain",
            "--corpus",
            "corpus.txt",
            *tokenizer,
            "--seed",
            1,
            "--output-dir",
            "encoder-1",
            *TINY_PRETRAINING,
        )
        words = ("--corpus", "corpus.txt", *tokenizer, "--recipe", "bert-6", "--num-hidden-layers", 2)
        succeed("pretrain", *words, "--snapshot-steps", 4, "--output-dir", "deep", *TINY_PRETRAINING)
        words = ("--corpus", "corpus.txt", *tokenizer, "--recipe", "bert-1-conv2", "--output-dir", "conv")
        succeed("pretrain", *words, *TINY_PRETRAINING)
        task = ("--task", "task.csv")
        succeed("finetune", "--model", "encoder", *task, "--output-dir", "first", *TINY_FINETUNING)
        succeed("finetune", "--model", "deep", *task, "--output-dir", "second", *TINY_FINETUNING)
        succeed("finetune", "--model", "encoder-1", *task, "--output-dir", "third", *TINY_FINETUNING)
        succeed("finetune", "--model", "encoder", *task, "--lora-rank", 2, "--output-dir", "adapted", *TINY_FINETUNING)
        succeed("committee", "--members", "first", "second", *task, "--output-dir", "together", "--disable-tqdm")
        words = ("--members", "third", "second", *task, "--output-dir", "together-1", "--disable-tqdm")
        succeed("committee", *words)
        succeed(
            "prepare-data",
            "--corpus",
            "corpus.txt",
            "--num-texts",
            40,
            80,
            "--validation-texts",
            10,
            "--output-dir",
            "texts",
        )
        card = DatasetCard.load("texts/README.md")
        card.data.license = "mit"
        card.text = re.sub(r"Its licence is not known.*\n?", "Licence: MIT.", card.text)
        card.save("texts/README.md")
        encoders = {"one layer": Path("encoder"), "two layers": Path("deep")}
        demo_task = DemoTask("words", "Farm or sea?", Path("together"), Path("second"), load_task("task.csv"))
        stage_demo(Path("demo"), [demo_task], encoders, "sentences of the tests", [SENTENCE] * 20)
    finally:
        os.chdir(before)
    (folder / "release.yaml").write_text(yaml.safe_dump(RELEASE, sort_keys=False))
    return folder


RELEASE = {
    "version": "0.1.0",
    "namespace": OWNER,
    "data": {"tlm-texts": {"folder": "texts"}},
    "encoders": {
        "tlm-bert1": {"run": "encoder", "data": ["tlm-texts"], "revisions": {"seed-1": "encoder-1"}},
        "tlm-bert2": {"run": "deep", "revisions": {"step-4": "deep/step-4"}},
        "tlm-conv": {"run": "conv"},
    },
    "adapters": {"tlm-bert1-words-lora": {"run": "adapted", "base": "tlm-bert1", "example": SENTENCE}},
    "classifiers": {
        "tlm-bert1-words": {
            "run": "first", "base": "tlm-bert1", "task": "farm or sea", "example": SENTENCE,
            "revisions": {"seed-1": "third"},
        },
        "tlm-bert2-words": {"run": "second", "base": "tlm-bert2", "task": "farm or sea"},
    },
    "committees": {
        "tlm-committee-words": {
            "run": "together", "members": ["tlm-bert1-words", "tlm-bert2-words"], "task": "farm or sea",
            "revisions": {"seed-1": "together-1"},
        }
    },
    "spaces": {
        "tlm-demo": {
            "demo": "demo",
            "committees": {"words": "tlm-committee-words"},
            "deep": {"words": "tlm-bert2-words"},
            "encoders": {"one layer": "tlm-bert1", "two layers": "tlm-bert2"},
        }
    },
    "collection": {"title": "Tiny language models", "description": "Small encoders.", "papers": ["2507.14871"]},
}  # fmt: skip


@functools.cache
def staged() -> Path:
    """The family staged; read only, so copy what you change. It counts as verified, without the half minute of it."""
    from tlm_hf.hub.stage import stage

    output = family().parent / "staged"
    before = os.getcwd()
    os.chdir(family())
    try:
        stage("release.yaml", str(output))
    finally:
        os.chdir(before)
    mark_verified(output)
    return output


def mark_verified(output: Path) -> None:
    """What `verify` writes in the end."""
    from tlm_hf.hub.manifest import tree_hash
    from tlm_hf.runs.atomic_files import file_hash

    folders = [path for owner in output.iterdir() if owner.is_dir() for path in owner.iterdir() if path.is_dir()]
    hashes = {f"{path.parent.name}/{path.name}": tree_hash(path) for path in folders}
    write_json(output / "verified.json", {"release": file_hash(output / "release.json"), "verified": hashes})


@functools.cache
def verified() -> Path:
    """The same after `verify`, which opened every repository in a process of its own."""
    from tlm_hf.hub.verify import verify

    (staged() / "verified.json").unlink()
    verify(str(staged()))
    return staged()
