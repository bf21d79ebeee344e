"""Manifests: the command that made a repository, and nothing that a stranger wrote there is shown unchecked."""

import json
import shutil

import pytest
from conftest import refusal
from helpers_commands import contents, succeed
from helpers_family import OWNER, family, staged

from tlm_hf.hub.manifest import reproduce


@pytest.mark.parametrize(("name", "run"), [("tlm-bert1-words", "first"), ("tlm-bert1-words@seed-1", "third")])
def test_the_command_makes_the_same_weights_again(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(family())
    found = reproduce(str(staged() / OWNER / name.partition("@")[0]), revision=name.partition("@")[2] or None)
    assert found["table"].startswith(found["command"])
    manifest = json.loads((staged() / OWNER / name / "manifest.json").read_text())
    base = staged() / found["inputs"]["{base}"]["repository"]
    values = {"{base}": str(base), "{output}": str(tmp_path / "again")}
    succeed(*(values.get(word, word) for word in manifest["reproduce"]["command"][1:]))
    weights = contents(tmp_path / "again")["model.safetensors"]
    assert weights == manifest["files"]["model.safetensors"]["sha256"]
    assert weights == contents(family() / run)["model.safetensors"]


def test_what_the_placeholders_are():
    table = reproduce(str(staged() / OWNER / "tlm-committee-words@seed-1"))["table"]
    assert f"{{members}} is {OWNER}/tlm-bert1-words@seed-1, whose weights have the SHA-256" in table
    assert f"{{members}} is {OWNER}/tlm-bert2-words, whose" in table
    assert "{repository} is" in reproduce(str(staged() / OWNER / "tlm-scratch"))["table"]


def test_places_that_are_nowhere(tmp_path):
    for repo, revision, words in (
        (str(staged() / OWNER / "tlm-bert1"), "seed-9", "tlm-bert1@seed-9/manifest.json"),
        (f"{OWNER}/nothing", None, "nothing is not a folder here"),
        ("a/b/c", None, "a/b/c is not a folder here"),
        (str(tmp_path), None, "manifest.json"),
        (str(staged() / OWNER / "tlm-demo"), None, "space"),
    ):
        assert words in refusal(reproduce, repo, revision=revision)


@pytest.mark.parametrize(
    "reproduction",
    [
        {"command": ["tlm", "release", "push", "--public", "--output-dir", "{output}"]},
        {"command": ["tlm", "pretrain", "--output-dir", "elsewhere"]},
        {"command": ["rm", "pretrain", "--output-dir", "{output}"]},
        {"command": [["tlm"]]},
        {"inputs": None},
        {"inputs": {"{base}": {"weights": "new"}}},
    ],
)
def test_what_a_stranger_wrote_is_refused(tmp_path, reproduction):
    folder = shutil.copytree(staged() / OWNER / "tlm-bert1", tmp_path / "tlm-bert1")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["reproduce"] |= reproduction
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refusal(reproduce, str(folder))
