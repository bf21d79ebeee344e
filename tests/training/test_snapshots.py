"""Snapshots of a pre-training: the encoder after N steps, whole or absent, and a run that does not notice them."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_commands import (
    BEFORE,
    ENVIRONMENT,
    assert_equal_weights,
    contents,
    refused,
    results_of,
    succeed,
    write_corpus,
)

from tlm_hf.hub.stage import read_results
from tlm_hf.runs import checkpoints
from tlm_hf.runs.output_folder import Run

PRETRAIN = ("pretrain", "--corpus", "corpus.txt", "--size", "smoke", "--max-steps", 14, "--batch-size", 8)
PRETRAIN = (*PRETRAIN, "--dropout", 0.1, "--logging-steps", 4, "--disable-tqdm", "--num-threads", 1)
KEPT = (*PRETRAIN, "--save-steps", 6, "--eval-steps", 7, "--snapshot-steps", 5, 7, 14)

LAUNCHER = (
    BEFORE
    + """
import json, os, signal, sys
from tlm_hf.commands.main import main
from tlm_hf.training.trainer import RunTrainer

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

before(RunTrainer, "_write_checkpoint", lambda trainer, *rest: trainer.state.global_step == 7, kill)
main(json.loads(sys.argv[1]))
"""
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """`plain`, a run without snapshots that keeps the checkpoint and the held-out loss of every step; `kept`."""
    folder = tmp_path_factory.mktemp("snapshots")
    write_corpus(folder / "corpus.txt", texts=90)
    with contextlib.chdir(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "KEEP", 99)
            patch.setattr(Run, "_remove_checkpoints", lambda run: None)
            succeed(*PRETRAIN, "--save-steps", 1, "--eval-steps", 1, "--output-dir", "plain")
        succeed(*KEPT, "--output-dir", "kept")
        yield folder


def snapshots_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("step-*")}


def loss_after(results: dict, step: int) -> float:
    return next(row["eval_loss"] for row in results["history"] if row["step"] == step and "eval_loss" in row)


def test_a_run_with_snapshots_is_the_run_without(home):
    assert_equal_weights(home / "kept", home / "plain")
    ours, theirs = results_of(home / "kept"), results_of(home / "plain")
    assert ours["held_out"] == theirs["held_out"]
    curves = [[row["loss"] for row in results["history"] if "loss" in row] for results in (ours, theirs)]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 3
    assert "snapshot_steps" not in ours["settings"]  # the finished weights come without
    assert snapshots_in(home / "kept") == {"step-5", "step-7", "step-14"}
    assert not list((home / "kept").glob("checkpoint-*"))


@pytest.mark.parametrize("step", [5, 7, 14])
def test_a_snapshot_has_the_weights_and_the_loss_of_its_step(home, step):
    folder = home / "kept" / f"step-{step}"
    assert_equal_weights(folder, home / "plain" / f"checkpoint-{step}")
    results, whole = results_of(folder), results_of(home / "kept")
    assert results["held_out"]["loss"] == loss_after(results_of(home / "plain"), step)
    assert results["kind"] == "pretrain"
    assert (results["snapshot"], results["steps"]) == (step, step)
    assert results["epochs"] == pytest.approx(whole["epochs"] * step / 14)
    assert results["settings"] == whole["settings"] | {"snapshot_steps": [step]}
    assert results["history"] == whole["history"][: len(results["history"])]
    assert max(row["step"] for row in results["history"]) <= step
    assert read_results(folder, "encoder") == results  # what a release file may name as a branch


def test_a_run_killed_between_snapshot_and_checkpoint_has_the_same_snapshots(home):
    folder = home / "killed"
    words = [str(word) for word in (*KEPT, "--output-dir", "killed")]
    command = [sys.executable, "-c", LAUNCHER, json.dumps(words)]
    done = subprocess.run(command, cwd=home, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == -9, done.stderr
    assert max(path.name for path in folder.glob("checkpoint-*")) == "checkpoint-6"
    assert snapshots_in(folder) == {"step-5", "step-7"}
    before = contents(folder / "step-7")
    succeed(*words)
    assert_equal_weights(folder, home / "plain")
    for step in (5, 7, 14):
        assert_equal_weights(folder / f"step-{step}", home / "plain" / f"checkpoint-{step}")
        assert results_of(folder / f"step-{step}")["held_out"] == results_of(home / "kept" / f"step-{step}")["held_out"]
    assert contents(folder / "step-7") == before  # passed again, it is left as it is
    assert {path.name for path in folder.iterdir()} == {path.name for path in (home / "kept").iterdir()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((0,), "--snapshot-steps has 0: give steps from 1"),
        (("half",), "invalid int value"),
        # 81 texts are left to train on, so 11 steps of 8
        ((12, "--max-steps", -1, "--num-train-epochs", 1), "--snapshot-steps has 12: give steps from 1 to 11"),
    ],
)
def test_impossible_steps_are_refused_before_the_training(home, capsys, words, said):
    assert said in refused(capsys, *PRETRAIN, "--snapshot-steps", *words, "--output-dir", "refused")
    assert not (home / "refused").exists()


def test_steps_that_were_passed_are_refused(home, capsys):
    said = refused(capsys, *PRETRAIN, "--eval-steps", 7, "--snapshot-steps", 7, 8, "--output-dir", "kept")
    assert said.startswith("The run in kept has finished and has no snapshot of step 8")
    shutil.copytree(home / "kept", home / "stopped", ignore=shutil.ignore_patterns("results.json", "step-*"))
    shutil.copytree(home / "plain" / "checkpoint-10", home / "stopped" / "checkpoint-10")
    before = contents(home / "stopped")
    words = (*PRETRAIN, "--eval-steps", 7, "--output-dir", "stopped", "--snapshot-steps", 12)
    assert refused(capsys, *words, 9).startswith("The run in stopped is at step 10 and has no snapshot of step 9")
    after = contents(home / "stopped")
    after.pop(".lock", None)  # of the refused command, which this process has not yet let go
    assert after == before
    succeed(*words)
    assert_equal_weights(home / "stopped" / "step-12", home / "plain" / "checkpoint-12")
