"""Damaged and malicious checkpoints, and runs that continue on another number of processes."""

import contextlib
import errno
import os
import pickle
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import check_sentence, refusal
from helpers_commands import assert_equal_weights, forks, killed_after, results_of, succeed, write_corpus, write_task

from tlm_hf.errors import UserError
from tlm_hf.runs.atomic_files import whole_folder
from tlm_hf.runs.checkpoints import best_beside, last_whole, list_checkpoints, seal, writing
from tlm_hf.runs.output_folder import Run

WORDS = shlex.split(
    "pretrain --corpus corpus.txt --size smoke --max-steps 20 --save-steps 5 --eval-steps 10 --batch-size 8 "
    "--dropout 0.1 --logging-steps 4 --num-threads 1 --use-cpu --disable-tqdm"
)
FINETUNE = shlex.split(
    "finetune --model whole --task task --num-train-epochs 4 --batch-size 8 --learning-rate 0.003 --disable-tqdm"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A finished run `whole`, and `killed`, which ended after step 13 with the checkpoints of steps 5 and 10."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_corpus(folder / "corpus.txt", texts=90)
    write_task(folder / "task")
    with contextlib.chdir(folder):
        succeed(*WORDS, "--output-dir", "whole")
        with killed_after(13):
            succeed(*WORDS, "--output-dir", "killed")
        yield folder


@pytest.fixture
def killed(home, tmp_path) -> Path:
    shutil.copytree(home / "killed", tmp_path / "run")
    return tmp_path / "run"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("tlm_hf")]


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "truncated weights": (lambda folder: cut(folder / "model.safetensors"), "changed: model.safetensors"),
    "flipped bit": (lambda folder: flip(folder / "optimizer.pt", 0.9), "changed: optimizer.pt"),
    "flipped bit in the manifest": (lambda folder: flip(folder / "manifest.json"), ""),
    "missing manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json or another"),
    "added folder": (lambda folder: shutil.copytree(folder, folder / "a"), "changed: a/config.json"),
    "another step's": (
        lambda folder: (shutil.rmtree(folder), shutil.copytree(folder.with_name("checkpoint-5"), folder)),
        "manifest.json is of another step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoint_is_passed_over(killed, caplog, name):
    assert last_whole(killed) == killed / "checkpoint-10"
    assert not warnings_of(caplog)
    damage, told = DAMAGES[name]
    damage(killed / "checkpoint-10")
    assert last_whole(killed) == killed / "checkpoint-5"
    (said,) = warnings_of(caplog)
    check_sentence(said)
    assert "checkpoint-10 is damaged (" in said
    assert told in said
    assert (killed / "damaged-checkpoint-10").is_dir()
    assert last_whole(killed) == killed / "checkpoint-5"
    assert len(warnings_of(caplog)) == 1
    (killed / "checkpoint-5" / "model.safetensors").unlink()
    assert last_whole(killed) is None
    assert "checkpoint-5 is damaged (missing, added or changed: model.safetensors)" in warnings_of(caplog)[1]


@pytest.mark.parametrize("both", [False, True])
def test_run_with_damaged_checkpoints_ends_as_if_nothing_had_happened(home, killed, caplog, both):
    for step in (10, 5)[: 1 + both]:
        flip(killed / f"checkpoint-{step}" / "optimizer.pt")
    words = (*WORDS, "--output-dir", str(killed))
    with killed_after(9):
        succeed(*words, "--save-steps", "4")
    names = [path.name for path in list_checkpoints(killed)]
    assert names == (["checkpoint-8", "checkpoint-4"] if both else ["checkpoint-8", "checkpoint-5"])
    succeed(*words)
    assert_equal_weights(killed, home / "whole")
    assert results_of(killed)["continued_from_step"] == 8
    assert not list(killed.glob("*checkpoint-*"))


def test_damaged_best_checkpoint_starts_the_fine_tuning_again(home, tmp_path, caplog):
    words = (*FINETUNE, "--output-dir", str(tmp_path / "run"))
    succeed(*FINETUNE, "--output-dir", str(tmp_path / "reference"))
    with killed_after(17):
        succeed(*words)
    newest = list_checkpoints(tmp_path / "run")[0]
    best = best_beside(newest)
    assert (newest.name, best.name) == ("checkpoint-14", "checkpoint-7")
    flip(best / "model.safetensors")
    caplog.clear()
    succeed(*words)
    said = next(text for text in warnings_of(caplog) if "checkpoint-14" in text)
    assert "(checkpoint-7, the best so far, is damaged: missing, added or changed: model" in said
    assert_equal_weights(tmp_path / "run", tmp_path / "reference")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth", "scheduler.pt"])
def test_no_pickle_of_a_checkpoint_is_run(home, killed, file):
    """The manifest is written again too, as whoever wants to harm would do."""
    marker = killed.parent / "harmed"
    torch.save({"state": Bomb(marker)}, killed.parent / "bomb.pt")
    torch.load(killed.parent / "bomb.pt", weights_only=False)
    marker.rmdir()  # so the pickle works
    (killed.parent / "bomb.pt").replace(killed / "checkpoint-10" / file)
    seal(killed / "checkpoint-10", 10, 1)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        succeed(*WORDS, "--output-dir", killed)
    assert not marker.exists()


def test_a_run_killed_before_its_results_puts_its_folders_in_place_again(tmp_path):
    def save(folder):
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_text("new")
        (folder / "adapter" / "weights").chmod(0o600)  # as safetensors does

    run = Run(tmp_path, "test", {})
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "old").touch()
    for name in ("checkpoint-1", "damaged-checkpoint-2", "checkpoint-best-backup"):  # the last one is the user's
        (tmp_path / name).mkdir()
    assert run.finish(save, {"a": 1})["a"] == 1
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["weights"]
    assert (tmp_path / "adapter" / "weights").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-best-backup"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "full"), "no space is left"),
        (OSError(errno.EACCES, "Permission denied"), "denied"),
        (RuntimeError(f"Error while serializing: I/O error (os error {errno.ENOSPC})"), "no space is left"),  # Rust's
    ],
)
def test_why_a_file_was_not_written_is_said(tmp_path, error, said):
    (tmp_path / ".partial").mkdir()
    with (
        pytest.raises(UserError, match=f"The weights could not be written: .*{said}"),
        writing("The weights", tmp_path),
    ):
        raise error
    assert not (tmp_path / ".partial").exists()


# Several processes.

FAULT = """
import os, resource, signal
import tlm_hf.training.trainer as training

def strike():
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

name = "_save_rng_state" if kind == "kill" else "_save_checkpoint"
due = lambda trainer, *rest: os.environ["RANK"] == rank and trainer.state.global_step == step
before(training.RunTrainer, name, due, strike)
"""


@pytest.fixture(scope="module")
def launch(home):
    """Function `(folder, fault)` that runs the command in two processes on the CPU; returns exit codes and stderr.

    A fault is `kill` or `full`, the rank that meets it, and a step.
    """
    with forks() as start:

        def run(folder: Path, *fault: object) -> tuple[list[int], str]:
            code = "kind, rank, step = {!r}, '{}', {}".format(*fault) + FAULT if fault else ""
            log = folder.with_name(f"{folder.name}.log")
            log.unlink(missing_ok=True)
            return start(code, (*WORDS, "--output-dir", folder), 2, log), log.read_text()

        yield run


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in results_of(folder)["history"] if "loss" in row]


@pytest.fixture(scope="module")
def pair(home, launch):
    codes, said = launch(home / "pair")
    assert codes == [0, 0], said
    return home / "pair"


def test_one_of_two_processes_is_killed_while_a_checkpoint_is_written(pair, launch, tmp_path):
    folder = tmp_path / "run"
    codes, said = launch(folder, "kill", 1, 10)
    assert codes[0] != 0, said
    assert codes[1] == -signal.SIGKILL, said
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-5"]
    codes, said = launch(folder)
    assert codes == [0, 0], said
    assert "The run began with" not in said
    assert_equal_weights(folder, pair)
    assert losses(folder) == losses(pair)
    assert results_of(folder)["continued_from_step"] == 5


def test_continues_on_another_number_of_processes(home, killed, launch, caplog):
    """1 to 2, out of space there, then 2 to 1; the losses stay near those of an uninterrupted run."""
    codes, said = launch(killed, "full", 0, 20)
    assert codes[0] == 2, said
    assert codes[1] != 0, said
    assert len(re.findall("began with 1 process.* continues with 2", said)) == 1
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, said
    assert "The checkpoint of step 20 could not be written: no space is left" in sentences[0]
    assert "the last good one is checkpoint-15" in sentences[0]
    assert [path.name for path in list_checkpoints(killed)] == ["checkpoint-15", "checkpoint-10"]
    assert not (killed / ".partial").exists()
    succeed(*WORDS, "--output-dir", killed)
    assert any(re.search("began with 2 process.* continues with 1", text) for text in warnings_of(caplog))
    ours, theirs = losses(killed), losses(home / "whole")
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert ours[:2] == theirs[:2]
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=0.1)


def test_folder_that_not_every_machine_sees_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)

    def answer(box, src):
        box[0] = tmp_path / "checkpoint-10"

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", answer)
    assert "on every machine" in refusal(last_whole, tmp_path)


@pytest.mark.parametrize("rename", [1, 2])
def test_a_folder_that_is_replaced_is_never_lost(tmp_path, monkeypatch, rename):
    """Interrupted at either of the two renames, or killed between them."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("old")
    count, real = iter(range(1, 9)), Path.rename

    def interrupted(path, other):
        if next(count) == rename:
            raise KeyboardInterrupt
        return real(path, other)

    def replace(error=None):
        with whole_folder(target) as draft:
            (draft / "file").write_text("new")
            if error is not None:
                raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            replace()
    assert [(path.name, (path / "file").read_text()) for path in tmp_path.iterdir()] == [("target", "old")]
    target.rename(tmp_path / ".target.old")  # what a kill leaves
    with pytest.raises(OSError, match="full"):
        replace(OSError("full"))
    assert (target / "file").read_text() == "old"
