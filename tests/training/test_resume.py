"""A run that is killed or interrupted anywhere continues with the same command and ends as if nothing had happened."""

import contextlib
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from helpers_commands import (
    assert_equal_weights,
    check_error,
    contents,
    forks,
    refused,
    results_of,
    succeed,
    write_corpus,
    write_task,
)
from transformers.trainer_pt_utils import safe_globals

from tlm_hf.runs.checkpoints import list_checkpoints
from tlm_hf.runs.output_folder import Run

ARM = """
import os, resource, signal, types
import tlm_hf.runs.output_folder as runs
import tlm_hf.runs.checkpoints as checkpoints
import tlm_hf.training.pretrain as pretraining, tlm_hf.training.trainer as training

number = signal.SIGINT if moment.startswith("interrupt") else signal.SIGKILL
strike = lambda: os.kill(os.getpid(), number)
if moment.endswith(" in a step"):
    due = lambda callback, args, state, control: state.global_step == step
    before(training.ProgressFile, "on_step_end", due, strike)
elif moment == "kill in the middle of a checkpoint":
    due = lambda trainer, *rest: trainer.state.global_step == step
    before(training.RunTrainer, "_save_optimizer_and_scheduler", due, strike)
elif moment == "kill before a checkpoint is renamed":
    before(checkpoints, "flush_tree", lambda folder: folder.name == f"checkpoint-{step}", strike)
elif moment == "kill before an old checkpoint is removed":
    checkpoints.shutil = types.SimpleNamespace(rmtree=checkpoints.shutil.rmtree)
    before(checkpoints.shutil, "rmtree", lambda path: (path.parent / f"checkpoint-{step}").exists(), strike)
elif moment.startswith("no space"):
    limits = int(moment.split()[-1]), resource.RLIM_INFINITY
    due = lambda trainer, *rest: trainer.state.global_step == step
    before(training.RunTrainer, "_save_checkpoint", due, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
elif moment == "kill before the results are written":
    before(runs, "write_json", lambda path, value: path.name == "results.json", strike)
elif moment == "interrupt after the last step":
    idle = lambda *arguments: signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before(pretraining, "masked_lm_score", idle, strike)
else:
    raise AssertionError(moment)
"""

PRETRAIN = ("pretrain", "--corpus", "corpus.txt", "--size", "smoke", "--max-steps", "20", "--save-steps", "5")
PRETRAIN = (*PRETRAIN, "--eval-steps", "10", "--batch-size", "8", "--dropout", "0.1", "--disable-tqdm")
PRETRAIN = (*PRETRAIN, "--logging-steps", "4")  # a checkpoint falls between two log lines
FINETUNE = ("finetune", "--model", "encoder", "--task", "task", "--num-train-epochs", "4", "--batch-size", "8")
FINETUNE = (*FINETUNE, "--learning-rate", "0.003", "--dropout", "0.1", "--disable-tqdm", "--logging-steps", "4")
FINETUNE = (*FINETUNE, "--token-dropout", "0.2", "--patience", "3")
# name: (moment, step, the command, exit code, checkpoints that are left)
CASES = {
    "step": ("kill in a step", 13, PRETRAIN, -9, ["checkpoint-10", "checkpoint-5"]),
    "half": ("kill in the middle of a checkpoint", 10, PRETRAIN, -9, ["checkpoint-5"]),
    "rename": ("kill before a checkpoint is renamed", 10, PRETRAIN, -9, ["checkpoint-5"]),
    "remove": ("kill before an old checkpoint is removed", 15, PRETRAIN, -9, ["checkpoint-10", "checkpoint-15"]),
    "results": ("kill before the results are written", 20, PRETRAIN, -9, ["checkpoint-15", "checkpoint-20"]),
    "interrupt": ("interrupt in a step", 12, PRETRAIN, 130, ["checkpoint-10", "checkpoint-13"]),
    "late": ("interrupt after the last step", 20, PRETRAIN, 130, ["checkpoint-15", "checkpoint-20"]),
    # What is too large: a file that Python copies, the weights (safetensors), the optimizer's state (torch.save).
    "full": ("no space for a file above 15000", 15, PRETRAIN, 2, ["checkpoint-10", "checkpoint-5"]),
    # 7 steps an epoch, the first of which is the best; its checkpoint is kept beside the last one.
    "moved": ("kill in a step", 24, FINETUNE, -9, ["checkpoint-14", "checkpoint-21", "checkpoint-7"]),
    # In the second half of the epoch with which patience ends.
    "within": ("interrupt in a step", 25, FINETUNE, 130, ["checkpoint-21", "checkpoint-26", "checkpoint-7"]),
    "space": ("no space for a file above 400000", 21, FINETUNE, 2, ["checkpoint-14", "checkpoint-7"]),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Uninterrupted runs `pretrain` and `finetune`, and a folder `NAME` for each case as its end left it."""
    folder = tmp_path_factory.mktemp("resume")
    write_corpus(folder / "corpus.txt", texts=90)
    write_task(folder / "task")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_remove_checkpoints", set_last_checkpoint_aside)
        for name, words in (("pretrain", PRETRAIN), ("encoder", (*PRETRAIN, "--seed", 4)), ("finetune", FINETUNE)):
            succeed(*words, "--output-dir", name)
        with forks() as start:
            ends = {}
            for name, (moment, step, words, *_) in CASES.items():
                code = f"moment, step = {moment!r}, {step}\n{ARM}"
                (ends[name],) = start(code, (*words, "--output-dir", name), 1, folder / f"{name}.err")
        yield folder, ends


def set_last_checkpoint_aside(run: Run) -> None:
    """What a finished run does with its checkpoints, but the last one goes to `NAME-last`."""
    for number, checkpoint in enumerate(list_checkpoints(run.folder)):
        if number == 0:
            aside = run.folder.with_name(f"{run.folder.name}-last")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
        else:
            shutil.rmtree(checkpoint)


def assert_same_run(folder: Path, reference: Path) -> None:
    assert_equal_weights(folder, reference)
    ours, theirs = results_of(folder), results_of(reference)
    for name in ("held_out", "test", "validation", "steps", "texts", "rows", "best_step", "settings", "parameters"):
        assert ours.get(name) == theirs.get(name), name
    curves = [curve(results["history"]) for results in (ours, theirs)]
    assert curves[0] == curves[1]
    for key in ("loss", "grad_norm", "eval_loss", "train_loss"):
        assert any(key in row for row in curves[0]), key
    assert_same_state(*(path.with_name(f"{path.name}-last") for path in (folder, reference)))
    left = {path.name for path in folder.iterdir()} - {path.name for path in reference.iterdir()}
    assert not left, "something of the interrupted run was left over"


def curve(history: list[dict]) -> list[dict]:
    timed = ("_runtime", "_per_second")
    return [{key: value for key, value in row.items() if not key.endswith(timed)} for row in history]


def assert_same_state(one: Path, other: Path) -> None:
    assert one.is_dir()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with safe_globals():
            ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (one, other))
        torch.utils._pytree.tree_map(assert_same_leaf, ours, theirs)


def assert_same_leaf(one: object, other: object) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, numpy.ndarray):
        assert numpy.array_equal(one, other)
    else:
        assert one == other


@pytest.mark.parametrize("name", CASES)
def test_run_continues_to_the_same_end(home, name):
    folder, ends = home
    _, _, words, code, checkpoints = CASES[name]
    assert ends[name] == code, (folder / f"{name}.err").read_text(encoding="utf-8")
    assert not (folder / name / "results.json").exists()
    assert sorted(path.name for path in (folder / name).glob("checkpoint-*")) == checkpoints
    if code == 130:
        assert "the same command continues" in (folder / f"{name}.err").read_text(encoding="utf-8")
    if code == 2:
        said = check_error((folder / f"{name}.err").read_text(encoding="utf-8").splitlines()[-1])
        newest = max(checkpoints, key=lambda checkpoint: int(checkpoint.split("-")[1]))
        assert "no space is left" in said
        assert f"the last good one is {newest}:" in said
        assert not (folder / name / ".partial").exists()
    if words is FINETUNE:
        assert results_of(folder / "finetune")["best_step"] == 7
    if name == "moved":
        # The best checkpoint must be found where it lies now.
        name = "elsewhere"
        (folder / "moved").rename(folder / name)
    succeed(*words, "--output-dir", name)
    assert_same_run(folder / name, folder / words[0])
    if words is PRETRAIN:
        continued = results_of(folder / name)["continued_from_step"]
        assert continued == max((int(checkpoint.split("-")[1]) for checkpoint in checkpoints), default=0)


def test_interrupted_run_refuses_other_arguments_and_keeps_its_checkpoint(home, tmp_path, capsys):
    folder, _ = home
    shutil.copytree(folder / "pretrain", tmp_path / "run", ignore=shutil.ignore_patterns("results.json"))
    shutil.copytree(folder / "pretrain-last", tmp_path / "run" / "checkpoint-20")
    before = contents(tmp_path)
    assert "seed 0 there and 3 here" in refused(capsys, *PRETRAIN, "--seed", 3, "--output-dir", tmp_path / "run")
    assert contents(tmp_path) == before
