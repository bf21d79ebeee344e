"""A run that is killed or interrupted anywhere continues with the same command and ends as if nothing had happened.

Oracle: the same command uninterrupted; weights must be equal to the last bit and scores equal. One process imports the
package and forks a child for each case; a child sends itself the signal at an exact point of the code, so no case
depends on timing. One more case interrupts an ordinary process from outside.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers_commands import (
    ENVIRONMENT,
    ROOT,
    assert_equal_weights,
    contents,
    labelled_rows,
    results_of,
    succeed,
    write_corpus,
    write_csv,
)

LAUNCHER = """
import json, os, signal, sys, types
from pathlib import Path
import tlm_hf.runs as runs
import tlm_hf.training.finetune, tlm_hf.training.pretrain as pretraining, tlm_hf.training.trainer as training
from tlm_hf.commands.main import main

def arm(moment, step):
    number = signal.SIGINT if moment.startswith("interrupt") else signal.SIGKILL
    def strike():
        os.kill(os.getpid(), number)
    def before(owner, name, due):
        original = getattr(owner, name)
        def wrapped(*arguments, **options):
            if due(*arguments):
                strike()
            return original(*arguments, **options)
        setattr(owner, name, wrapped)
    if moment in ("kill in a step", "interrupt in a step"):
        due = lambda callback, args, state, control: state.global_step == step
        before(training.ProgressFileCallback, "on_step_end", due)
    elif moment == "kill in the middle of a checkpoint":
        due = lambda trainer, *rest: trainer.state.global_step == step
        before(training.RunTrainer, "_save_optimizer_and_scheduler", due)
    elif moment == "kill before a checkpoint is renamed":
        before(training, "flush_tree", lambda folder: folder.name == f"checkpoint-{step}")
    elif moment == "kill before an old checkpoint is removed":
        training.shutil = types.SimpleNamespace(rmtree=training.shutil.rmtree)
        def due(path, **options):
            return Path(path).name == f"checkpoint-{step}" and len(list(Path(path).parent.glob("checkpoint-*"))) > 1
        before(training.shutil, "rmtree", due)
    elif moment == "kill before the results are written":
        before(runs, "write_json", lambda path, value: path.name == "results.json")
    elif moment == "interrupt after the last step":
        idle = lambda *arguments: signal.getsignal(signal.SIGINT) is signal.default_int_handler
        before(pretraining, "masked_lm_score", idle)
    else:
        raise AssertionError(moment)

ends = {}
for name, moment, step, words in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        with open(f"{name}.err", "w") as log:
            os.dup2(log.fileno(), 2)
            os.dup2(log.fileno(), 1)
        arm(moment, step)
        code = 0
        try:
            main(words)
        except SystemExit as leaving:
            code = leaving.code
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    ends[name] = os.waitstatus_to_exitcode(status)
print(json.dumps(ends))
"""

PRETRAIN = ("pretrain", "--corpus", "corpus.txt", "--size", "smoke", "--max-steps", "20", "--save-steps", "5")
PRETRAIN = (*PRETRAIN, "--eval-steps", "10", "--batch-size", "8", "--dropout", "0.1", "--disable-tqdm")
FINETUNE = ("finetune", "--model", "encoder", "--task", "task", "--num-train-epochs", "4", "--batch-size", "8")
FINETUNE = (*FINETUNE, "--learning-rate", "0.003", "--dropout", "0.1", "--disable-tqdm")
# name: (moment, step, the command, exit code, checkpoints that are left)
CASES = {
    "early": ("kill in a step", 3, PRETRAIN, -9, []),
    "step": ("kill in a step", 13, PRETRAIN, -9, ["checkpoint-10"]),
    "half": ("kill in the middle of a checkpoint", 10, PRETRAIN, -9, ["checkpoint-5"]),
    "first": ("kill in the middle of a checkpoint", 5, PRETRAIN, -9, []),
    "rename": ("kill before a checkpoint is renamed", 10, PRETRAIN, -9, ["checkpoint-5"]),
    "remove": ("kill before an old checkpoint is removed", 5, PRETRAIN, -9, ["checkpoint-10", "checkpoint-5"]),
    "results": ("kill before the results are written", 20, PRETRAIN, -9, ["checkpoint-20"]),
    "interrupt": ("interrupt in a step", 12, PRETRAIN, 130, ["checkpoint-13"]),
    "late": ("interrupt after the last step", 20, PRETRAIN, 130, ["checkpoint-20"]),
    # 7 steps an epoch, the first of which is the best; its checkpoint is kept beside the last one.
    "epoch": ("kill in a step", 17, FINETUNE, -9, ["checkpoint-14", "checkpoint-7"]),
    "moved": ("kill in a step", 24, FINETUNE, -9, ["checkpoint-21", "checkpoint-7"]),
    "within": ("interrupt in a step", 16, FINETUNE, 130, ["checkpoint-17", "checkpoint-7"]),
    "boundary": ("interrupt in a step", 20, FINETUNE, 130, ["checkpoint-21", "checkpoint-7"]),
}


def write_task(folder: Path) -> None:
    """A task whose validation texts stand under both labels: accuracy is 1/2 whatever the weights, the loss is not."""
    rows = labelled_rows(46)
    folder.mkdir()
    write_csv(folder / "train.csv", rows[:56])
    write_csv(folder / "validation.csv", [{**row, "label": label} for row in rows[56:62] for label in ("farm", "sea")])
    write_csv(folder / "test.csv", rows[62:])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Uninterrupted runs `pretrain` and `finetune`, and a folder `NAME` for each case as its end left it."""
    folder = tmp_path_factory.mktemp("resume")
    write_corpus(folder / "corpus.txt", texts=90)
    write_task(folder / "task")
    here = os.getcwd()
    os.chdir(folder)
    try:
        for name, words in (("pretrain", PRETRAIN), ("encoder", (*PRETRAIN, "--seed", 4)), ("finetune", FINETUNE)):
            succeed(*words, "--output-dir", name)
        cases = [
            (name, moment, step, (*words, "--output-dir", name)) for name, (moment, step, words, *_) in CASES.items()
        ]
        command = [sys.executable, "-c", LAUNCHER, json.dumps(cases)]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        yield folder, json.loads(done.stdout.strip().splitlines()[-1])
    finally:
        os.chdir(here)


def assert_same_run(folder: Path, reference: Path) -> None:
    """Same weights, and the same results but for the clock and the place."""
    assert_equal_weights(folder, reference)
    ours, theirs = results_of(folder), results_of(reference)
    for name in ("held_out", "test", "validation", "steps", "texts", "rows", "best_step", "settings", "parameters"):
        assert ours.get(name) == theirs.get(name), name
    scores = [
        [(row["step"], row["eval_loss"]) for row in results["history"] if "eval_loss" in row]
        for results in (ours, theirs)
    ]
    assert scores[0] == scores[1]
    assert scores[0]
    left = {path.name for path in folder.iterdir()} - {path.name for path in reference.iterdir()}
    assert not left, "something of the interrupted run was left over"


@pytest.mark.parametrize("name", CASES)
def test_run_continues_to_the_same_end(home, name):
    folder, ends = home
    _, _, words, code, checkpoints = CASES[name]
    assert ends[name] == code, (folder / f"{name}.err").read_text(encoding="utf-8")
    assert not (folder / name / "results.json").exists()
    assert sorted(path.name for path in (folder / name).glob("checkpoint-*")) == checkpoints
    if code == 130:
        said = (folder / f"{name}.err").read_text(encoding="utf-8")
        assert "the same command continues" in said
        assert "Traceback" not in said
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


def test_half_written_checkpoint_is_ignored(home, tmp_path):
    folder, _ = home
    words = (*PRETRAIN, "--output-dir", str(tmp_path / "run"))
    succeed(*words)
    record = (tmp_path / "run" / "run.json").read_bytes()
    shutil.rmtree(tmp_path / "run")
    broken = tmp_path / "run" / ".partial" / "checkpoint-15"
    broken.mkdir(parents=True)
    (broken / "model.safetensors").write_bytes(b"half")
    (tmp_path / "run" / "checkpoint-tmp").mkdir()
    (tmp_path / "run" / "run.json").write_bytes(record)
    (tmp_path / "run" / ".run.json.77.tmp").write_bytes(b"{")
    succeed(*words)
    assert_equal_weights(tmp_path / "run", folder / "pretrain")
    assert not (tmp_path / "run" / ".partial").exists()


def test_folder_of_a_run_killed_at_its_very_start_is_free(home, tmp_path):
    folder, _ = home
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.77.tmp").write_bytes(b"{")
    (tmp_path / "run" / "train.log").touch()
    succeed(*PRETRAIN, "--output-dir", tmp_path / "run")
    assert_equal_weights(tmp_path / "run", folder / "pretrain")


def test_interrupted_run_refuses_other_arguments_and_keeps_its_checkpoint(home, tmp_path, capsys):
    folder, _ = home
    shutil.copytree(folder / "pretrain", tmp_path / "run", ignore=shutil.ignore_patterns("results.json"))
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        succeed(*PRETRAIN, "--seed", 3, "--output-dir", tmp_path / "run")
    assert leaving.value.code == 2
    assert "seed 0 there and 3 here" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_interrupt_from_outside(home):
    """An ordinary process, a SIGINT from another one, and the same command again; the moment does not matter."""
    folder, _ = home
    # Many more steps than can pass between the first checkpoint and the signal.
    words = [word if word != "20" else "4000" for word in PRETRAIN[1:]]
    command = [sys.executable, str(ROOT / "scripts" / "pretrain.py"), *words, "--output-dir", "outside"]
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while not list((folder / "outside").glob("checkpoint-*")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no checkpoint appeared"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "saving a checkpoint" in said
    assert "the same command continues" in said
    (checkpoint,) = (folder / "outside").glob("checkpoint-*")
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    assert checkpoint.name == f"checkpoint-{state['global_step']}"
    assert not (folder / "outside" / ".partial").exists()
