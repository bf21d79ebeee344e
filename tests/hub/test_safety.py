"""What must not go up. Oracle: the planted secret, path or file."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal
from helpers_family import OWNER, family, staged

from tlm_hf.hub.safety import check_folder, redact
from tlm_hf.hub.stage import stage

PLANTED = {
    "a Hugging Face token": "hf_" + "Ab1" * 12,
    "a GitHub token": "ghp_" + "x" * 36,
    "an AWS key": "AKIA" + "ABCD" * 4,
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "an API key": "sk-" + "a1" * 20,
    "a password in an address": "https://me:" + "secret1@example.org",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A staged repository, looked at from an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return shutil.copytree(staged() / OWNER / "tlm-bert1", tmp_path / "tlm-bert1")


def note(folder, text):
    (folder / "config.json").write_text('{"note": "' + text + '"}')


@pytest.fixture
def refusal_of(folder):
    check_folder(folder)  # as it was staged it is safe
    return lambda *places: refusal(check_folder, folder, places)


@pytest.mark.parametrize("what", PLANTED)
def test_secrets_stop_it_and_are_not_shown(folder, refusal_of, what):
    (folder / "README.md").write_text((folder / "README.md").read_text() + f'\n"{PLANTED[what]}"\n')
    message = refusal_of()
    assert what in message
    assert "README.md" in message
    assert PLANTED[what] not in message + redact(f"it said {PLANTED[what]}")


def test_foreign_files(folder, refusal_of):
    for name, content in {"model.bin": pickle.dumps({}), "notes.txt": b"\xff"}.items():
        (folder / name).write_bytes(content)
        assert name in refusal_of()
        (folder / name).unlink()
    np.savez(folder / "answers.npz", answers=np.array([{"a": 1}], dtype=object))  # needs pickle
    assert "answers.npz" in refusal_of()


def test_code_that_is_not_ours(tmp_path, monkeypatch):
    """What a run holds beside our files is refused; ours go up as the package has them."""
    run = shutil.copytree(family() / "encoder", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(f"version: 0.1.0\nnamespace: {OWNER}\nencoders: {{tlm-bert1: {{run: run}}}}\n")
    (run / "modeling_tlm.py").write_text("import os\n")
    stage("r.yaml", "out")
    staged_code = (Path("out") / OWNER / "tlm-bert1" / "modeling_tlm.py").read_bytes()
    assert staged_code == (staged() / OWNER / "tlm-bert1" / "modeling_tlm.py").read_bytes()
    (run / "extra.py").write_text("import os\n")
    assert "extra.py" in refusal(stage, "r.yaml", "other")


@pytest.mark.parametrize("planted", ["runs/first", "runs/base/config.json", "texts/ag_news", "link"])
@pytest.mark.parametrize("before", ["", "file:" + "//", "two lines\\n", "--corpus="])
def test_runs_and_texts_are_not_named(folder, tmp_path, refusal_of, monkeypatch, planted, before):
    """On a disk of neither the home folder nor the working folder; a link to a run names neither of its ends."""
    disk = tmp_path / "disk"
    (disk / "runs" / "first").mkdir(parents=True)
    Path("link").symlink_to(disk / "runs" / "first")
    note(folder, f"{before}{disk}/{planted.replace('link', 'runs/first')}")
    check_folder(folder)  # nobody has said yet that it is private
    monkeypatch.setenv("TLM_DATA", str(disk / "texts"))
    assert "config.json holds a path of this machine" in refusal_of(
        Path("link") if planted == "link" else disk / "runs" / "first"
    )


def test_places_of_this_machine_and_what_only_looks_like_one(folder, tmp_path, refusal_of, monkeypatch):
    monkeypatch.setenv("HOME", "/everybody")
    for planted in (str(Path.cwd() / "x"), "/ho" + "me/somebody/models", "/everybody/models"):
        note(folder, planted)
        assert "path of this machine" in refusal_of()
    for harmless in (f"https://example.org{tmp_path}/disk/x", f"outputs{tmp_path}/disk"):
        note(folder, harmless)
        check_folder(folder, [tmp_path / "disk"])


def test_a_run_on_another_disk_is_staged_without_its_place(folder, tmp_path):
    disk = tmp_path / "disk"
    run = shutil.copytree(family() / "encoder", disk / "runs" / "first")
    results = json.loads((run / "results.json").read_text()) | {"corpus": f"{disk}/a.txt"}
    Path("r.yaml").write_text(f"version: 0.1.0\nnamespace: {OWNER}\nencoders:\n  tlm-bert1: {{run: {run}}}\n")
    (run / "results.json").write_text(json.dumps(results | {"history": f"to {run}/checkpoint-3"}))
    assert "results.json holds a path" in refusal(stage, "r.yaml", str(tmp_path / "out"))
    (run / "results.json").write_text(json.dumps(results | {"history": "nowhere"}))
    stage("r.yaml", str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / OWNER / "tlm-bert1" / "results.json").read_text())["corpus"] == "a.txt"
