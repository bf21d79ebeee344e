"""Several members at once: each is the one that a run for it alone gives, whatever trained it."""

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
from helpers_commands import assert_equal_weights, results_of, shelf, succeed, write_corpus
from safetensors.torch import load_file

from tlm_hf.errors import UserError
from tlm_hf.training.members import choose_workers, finetune_members, pretrain_members
from tlm_hf.training.pretrain import pretrain

SEED = 5
OPTIONS = {"size": "smoke", "max_steps": 6, "save_steps": 3, "eval_steps": 3, "batch_size": 8, "dropout": 0.1}
OPTIONS |= {"seed": SEED, "num_threads": 1, "disable_tqdm": True}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """`corpus.txt`; `together`, two members side by side; `alone-K`, the two that runs for them alone give."""
    folder = tmp_path_factory.mktemp("members")
    write_corpus(folder / "corpus.txt", texts=90)
    with contextlib.chdir(folder):
        pretrain_members(num_members=2, workers=2, output_dir="together", corpus="corpus.txt", cased=True, **OPTIONS)
        for index in range(2):
            own = {"seed": SEED + index, "tokenizer": "together/tokenizer", "output_dir": f"alone-{index}"}
            pretrain(corpus="corpus.txt", **OPTIONS | own)
        yield folder


def assert_same_member(found: Path, alone: Path) -> None:
    assert_equal_weights(found, alone)
    ours, theirs = results_of(found), results_of(alone)
    for name in ("held_out", "steps", "texts", "settings", "parameters"):
        assert ours[name] == theirs[name], name
    for name in ("config.json", "tokenizer.json"):
        assert (found / name).read_bytes() == (alone / name).read_bytes()


def test_members_side_by_side_are_those_trained_alone(home):
    for index in range(2):
        assert_same_member(home / "together" / f"member-{index}", home / f"alone-{index}")
    one, other = (load_file(home / "together" / f"member-{index}" / "model.safetensors") for index in range(2))
    assert not torch.equal(one["cls.predictions.bias"], other["cls.predictions.bias"])
    results = results_of(home / "together")
    losses = [results_of(home / f"alone-{index}")["held_out"]["loss"] for index in range(2)]
    assert [member["held_out"]["loss"] for member in results["members"]] == losses
    assert [member["seed"] for member in results["members"]] == [SEED, SEED + 1]
    mean = pytest.approx(sum(losses) / 2)
    assert results["held_out"]["loss"] == {"mean": mean, "lowest": min(losses), "highest": max(losses)}


def test_the_tokenizer_is_the_one_that_a_run_alone_trains(home, tmp_path):
    pretrain(corpus="corpus.txt", output_dir=str(tmp_path / "run"), **OPTIONS)
    assert_equal_weights(tmp_path / "run", home / "together" / "member-0")


def test_finished_members_are_read_and_others_trained(home, tmp_path):
    """In turn in a folder that has moved; a finished member is not touched, and the same call again trains nothing."""
    shutil.copytree("together", tmp_path / "run")
    options = OPTIONS | {
        "cased": True,
        "num_members": 2,
        "workers": 1,
        "output_dir": str(tmp_path / "run"),
        "corpus": "corpus.txt",
    }
    finished = tmp_path / "run" / "member-0"
    files = {path: path.stat().st_mtime_ns for path in finished.iterdir() if path.suffix != ".log"}
    (tmp_path / "run" / "results.json").unlink()
    (tmp_path / "run" / "member-1" / "results.json").unlink()
    (tmp_path / "run" / "member-1" / "model.safetensors").unlink()
    results = pretrain_members(**options)
    assert results["members"][0] == results_of(home / "together")["members"][0]
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert_same_member(tmp_path / "run" / "member-1", home / "alone-1")
    assert pretrain_members(**options) == results


def test_fine_tuned_members(home, tmp_path):
    encoders = [str(home / "together" / f"member-{index}") for index in range(2)]
    options = {"models": encoders, "task": str(shelf() / "task.csv"), "output_dir": str(tmp_path / "run"), "seed": SEED}
    options |= {"num_train_epochs": 2.0, "num_threads": 1, "disable_tqdm": True}
    results = finetune_members(workers=1, **options)
    for index, encoder in enumerate(encoders):
        words = ("--task", shelf() / "task.csv", "--num-train-epochs", 2, "--disable-tqdm", "--num-threads", 1)
        alone = tmp_path / f"alone-{index}"
        succeed("finetune", "--model", encoder, "--seed", SEED + index, "--output-dir", alone, *words)
        assert_equal_weights(tmp_path / "run" / f"member-{index}", alone)
        ours, theirs = results_of(tmp_path / "run" / f"member-{index}"), results_of(alone)
        assert ours["settings"] == theirs["settings"]
        for split in ("validation", "test"):
            assert results["members"][index][split] == ours[split] == theirs[split]
    accuracies = [member["test"]["accuracy"] for member in results["members"]]
    assert results["test"]["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert results["labels"] == ["farm", "sea"]
    with pytest.raises(UserError, match="belongs to another run"):
        finetune_members(**options | {"models": encoders[::-1]})
    with pytest.raises(UserError, match="no --model"):
        finetune_members(**options, model=encoders[0])


def test_refusals(home, tmp_path, monkeypatch):
    options = OPTIONS | {"output_dir": "together", "corpus": "corpus.txt", "cased": True}
    for members, workers, said in ((0, 1, "--num-members is 0"), (2, 0, "--workers is 0"), (3, 2, "members 2 there")):
        with pytest.raises(UserError, match=said):
            pretrain_members(num_members=members, workers=workers, **options)
    with monkeypatch.context() as launched:
        launched.setenv("WORLD_SIZE", "2")
        with pytest.raises(UserError, match="start without torchrun"):
            pretrain_members(num_members=2, **options)
    with pytest.raises(UserError, match="--seed is"):
        pretrain_members(num_members=3, **options | {"seed": 2**32 - 2})
    shutil.copytree("together", tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    shutil.rmtree(tmp_path / "run" / "member-1")
    shutil.copytree("alone-0", tmp_path / "run" / "member-1")
    with pytest.raises(UserError, match=r"member-1: .* belongs to another run \(seed 5 there and 6 here\)"):
        pretrain_members(num_members=2, **options | {"output_dir": str(tmp_path / "run")})


@pytest.mark.parametrize(
    ("members", "threads", "workers", "expected"),
    [
        (3, None, None, (3, 2)),
        (12, None, None, (8, 1)),
        (3, 4, None, (2, 4)),
        (3, 16, None, (1, 16)),
        (3, None, 1, (1, 8)),
        (3, 1, 2, (2, 1)),
    ],
)
def test_threads_are_shared_out(monkeypatch, members, threads, workers, expected):
    """Of 8 threads on a CPU."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert choose_workers({"num_threads": threads, "use_cpu": True}, members, workers) == expected
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert choose_workers({}, 4, None)[0] == 3  # one a device
