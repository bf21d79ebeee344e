"""A family of trained smoke runs and its release file: 10 repositories and 3 branches."""

import contextlib
import functools
import json
import os
import shutil
from pathlib import Path

import filelock
import yaml
from helpers_commands import TINY_FINETUNING, TINY_PRETRAINING, labelled_rows, shelf, succeed, write_csv

from tlm_hf.hub.manifest import describe_files, tree_hash
from tlm_hf.hub.stage import stage
from tlm_hf.runs.atomic_files import file_hash, write_json

OWNER = "tiny-lab"
SENTENCE = "the cow and the boat"
RELEASE = {
    "version": "0.1.0",
    "namespace": OWNER,
    "encoders": {
        "tlm-bert1": {"run": "encoder", "revisions": {"seed-1": "encoder-1"}},
        "tlm-bert2": {"run": "deep"},
        "tlm-conv": {"run": "conv"},
    },
    "adapters": {
        "tlm-lora": {"run": "adapted", "base": "tlm-bert1", "example": SENTENCE}
    },
    "classifiers": {
        "tlm-bert1-words": {
            "run": "first", "base": "tlm-bert1", "task": "farm or sea", "example": SENTENCE,
            "revisions": {"seed-1": "third"},
        },
        "tlm-bert2-words": {"run": "second", "base": "tlm-bert2", "task": "farm or sea"},
        "tlm-scratch": {"run": "scratch", "example": SENTENCE},
    },
    "committees": {
        "tlm-committee-words": {
            "run": "together", "members": ["tlm-bert1-words", "tlm-bert2-words"], "task": "farm or sea",
            "revisions": {"seed-1": "together-1"},
        }
    },
    "frozen": {"tlm-words-frozen": {"run": "frozen", "base": "tlm-bert1-words", "task": "farm or sea"}},
    "spaces": {
        "tlm-demo": {
            "demo": "demo",
            "committees": {"words": "tlm-committee-words"},
            "deep": {"words": "tlm-bert2-words"},
            "encoders": {"one layer": "tlm-bert1", "two layers": "tlm-bert2"},
        }
    },
}  # fmt: skip


def _once(name, make):
    """A folder that is made once a run of the tests, by the process that needs it first; read only."""
    folder = Path(os.environ["TLM_TESTS"]) / name
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_name(f"{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(folder)
    return folder


@functools.cache
def family():
    """Folder of the runs; `release.yaml` in it names them. Commands are to be started there."""
    return _once("family", _make_family)


def _make_family(folder):
    folder.mkdir(parents=True)
    for name in ("encoder", "scratch"):
        shutil.copytree(shelf() / name, folder / name)
    shutil.copy(shelf() / "corpus.txt", folder)
    with contextlib.chdir(folder):
        write_csv(Path("task.csv"), labelled_rows())
        _train()
        encoders = ("one layer=encoder", "two layers=deep")
        Path("sentences.txt").write_text("\n".join(f"{SENTENCE} {number}" for number in range(40)))
        models = ("--committees", "words=together", "--deep", "words=second", "--encoders", *encoders)
        succeed("demo", *models, "--corpus", "sentences.txt", "--output-dir", "demo")
        Path("release.yaml").write_text(yaml.safe_dump(RELEASE, sort_keys=False))


def _train():
    pretrain = ("pretrain", "--corpus", "corpus.txt", "--tokenizer", "encoder", *TINY_PRETRAINING, "--output-dir")
    succeed(*pretrain, "encoder-1", "--seed", 1)
    succeed(*pretrain, "deep", "--recipe", "bert-6", "--num-hidden-layers", 2)
    succeed(*pretrain, "conv", "--recipe", "bert-1-conv2")
    finetune = ("finetune", "--task", "task.csv", *TINY_FINETUNING, "--model")
    succeed(*finetune, "encoder", "--output-dir", "first")
    succeed(*finetune, "deep", "--output-dir", "second")
    succeed(*finetune, "encoder-1", "--output-dir", "third")
    succeed(*finetune, "encoder", "--lora-rank", 2, "--output-dir", "adapted")
    committee = ("committee", "--task", "task.csv", "--disable-tqdm", "--members")
    succeed(*committee, "first", "second", "--output-dir", "together")
    succeed(*committee, "third", "second", "--output-dir", "together-1")
    succeed("freeze", "--model", "first", "--output-dir", "frozen")


@functools.cache
def staged():
    """The family staged; copy what you change. It counts as verified, without the minutes that this takes."""
    return _once("staged", _stage_family)


def _stage_family(folder):
    with contextlib.chdir(family()):
        stage("release.yaml", str(folder))
    mark_verified(folder)


def mark_verified(output):
    write_json(output / "verified.json", {"release": file_hash(output / "release.json")})


def edit(release, folder, version=None):
    """Change a staged folder as staging and verifying something else would have."""
    place = release / OWNER / folder
    (place / "README.md").write_text((place / "README.md").read_text() + "\nMore.\n")
    manifest = json.loads((place / "manifest.json").read_text())
    files = {name: facts for name, facts in describe_files(place).items() if name != "manifest.json"}
    manifest |= {"files": files, "version": version or manifest["version"]}
    (place / "manifest.json").write_text(json.dumps(manifest))
    record = json.loads((release / "release.json").read_text())
    record["version"] = version or record["version"]
    write_record(release, record)
    mark_verified(release)


def write_record(release, record):
    """Write what is staged, with the hashes of the folders as they are."""
    for repository in record["repositories"]:
        repository["tree"] = {name: tree_hash(release / name) for name in repository["tree"]}
    (release / "release.json").write_text(json.dumps(record))
