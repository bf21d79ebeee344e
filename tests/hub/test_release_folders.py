"""Releases as folders: the same tree without a Hub, and runs made again from their manifests.

Oracles: the staged files, and the hashes of the runs as they were first made.
"""

import json
import shutil
from pathlib import Path

import pytest
from helpers_commands import contents, results_of
from helpers_family import OWNER, family, mark_verified, staged

from tlm_hf.errors import UserError
from tlm_hf.hub.release_directory import push_to_directory
from tlm_hf.hub.release_reproduce import reproduce
from tlm_hf.runs.atomic_files import file_hash

ROOT = Path(__file__).resolve().parents[2]
RUNS = {
    "tlm-bert1": "encoder", "tlm-bert1-words": "first", "tlm-bert1-words-lora": "adapted",
    "tlm-committee-words": "together",
}  # fmt: skip
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("tlm-bert1", "tlm-bert1-words", "tlm-bert1-words-lora")]


@pytest.fixture(scope="module")
def output():
    return staged()


@pytest.fixture
def copy(output, tmp_path):
    """The staged release, to be changed."""
    shutil.copytree(output, tmp_path / "release")
    return tmp_path / "release"


class TestDirectory:
    def test_the_same_tree(self, output, tmp_path):
        push_to_directory(str(output), str(tmp_path / "shelf"))
        assert contents(tmp_path / "shelf" / OWNER) == contents(output / OWNER)
        assert push_to_directory(str(output), str(tmp_path / "shelf"))["copied"] == []

    def test_changes_there_are_kept(self, output, tmp_path, one_sentence):
        target = tmp_path / "shelf"
        push_to_directory(str(output), str(target))
        (target / OWNER / "tlm-conv" / "README.md").write_text("mine\n")
        with pytest.raises(UserError) as refusal:
            push_to_directory(str(output), str(target))
        assert "tlm-conv" in one_sentence(refusal.value)
        assert (target / OWNER / "tlm-conv" / "README.md").read_text() == "mine\n"
        push_to_directory(str(output), str(target), overwrite=True)
        assert contents(target / OWNER) == contents(output / OWNER)

    @pytest.mark.parametrize("content", ['{"mine": 1}', "[]", "no json"])
    def test_a_file_of_the_same_name_is_kept(self, output, tmp_path, one_sentence, content):
        (tmp_path / "release.json").write_text(content)
        with pytest.raises(UserError) as refusal:
            push_to_directory(str(output), str(tmp_path), overwrite=True)
        assert "is none that a release left" in one_sentence(refusal.value)
        assert contents(tmp_path) == {"release.json": contents(tmp_path)["release.json"]}
        assert (tmp_path / "release.json").read_text() == content

    def test_a_staged_release_is_no_shelf(self, output, copy, one_sentence):
        before = contents(copy)
        with pytest.raises(UserError) as refusal:
            push_to_directory(str(output), str(copy))
        assert "a release is staged" in one_sentence(refusal.value)
        assert contents(copy) == before

    def test_versions_do_not_go_back(self, output, copy, tmp_path, one_sentence):
        record = json.loads((copy / "release.json").read_text())
        (copy / "release.json").write_text(json.dumps(record | {"version": "0.10.0"}))
        mark_verified(copy)
        push_to_directory(str(copy), str(tmp_path / "shelf"))
        with pytest.raises(UserError) as refusal:
            push_to_directory(str(output), str(tmp_path / "shelf"))
        assert "0.10.0, which is newer than 0.1.0" in one_sentence(refusal.value)
        push_to_directory(str(output), str(tmp_path / "shelf"), overwrite=True)
        assert json.loads((tmp_path / "shelf" / "release.json").read_text())["version"] == "0.1.0"

    def test_dry_run_writes_nothing(self, output, tmp_path):
        push_to_directory(str(output), str(tmp_path / "shelf"), dry_run=True)
        assert not (tmp_path / "shelf").exists()


class TestReproduce:
    @pytest.mark.parametrize("name", ["tlm-committee-words", *SLOW])
    def test_hashes_are_those_of_the_manifest(self, output, name, monkeypatch):
        monkeypatch.chdir(family())
        threads = results_of(family() / RUNS[name])["settings"].get("threads")
        assert threads in (None, 1)  # as in the processes of the tests
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        found = reproduce(str(output / OWNER / name))
        assert found["identical"], found
        assert found["differences"] == {}
        assert "{output}" in found["command"]

    def test_a_branch_is_made_again_from_the_branch_of_its_base(self, output, monkeypatch):
        monkeypatch.chdir(family())
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        manifest = json.loads((output / OWNER / "tlm-bert1-words@seed-1" / "manifest.json").read_text())
        assert manifest["reproduce"]["inputs"]["{base}"]["repository"] == f"{OWNER}/tlm-bert1@seed-1"
        found = reproduce(str(output / OWNER / "tlm-bert1-words"), revision="seed-1")
        assert found["identical"], found
        (file,) = found["files"].values()
        assert file["expected"] == file_hash(family() / "third" / "model.safetensors")

    @pytest.mark.slow
    def test_a_snapshot_is_made_again_by_the_run_that_left_it(self, output, monkeypatch):
        monkeypatch.chdir(family())
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        found = reproduce(str(output / OWNER / "tlm-bert2"), revision="step-4")
        assert found["identical"], found
        (file,) = found["files"].values()
        assert file["expected"] == file_hash(family() / "deep" / "step-4" / "model.safetensors")
        assert file["expected"] != file_hash(family() / "deep" / "model.safetensors")

    def test_places_that_are_nowhere(self, output, one_sentence, tmp_path):
        for repo, revision, words in (
            (str(output / OWNER / "tlm-bert1"), "seed-9", "no branch 'seed-9'"),
            (f"{OWNER}/nothing", None, "HF_HUB_OFFLINE"),
            ("a/b/c", None, "nor a name on the Hub"),
            (str(tmp_path), None, "manifest.json"),
        ):
            with pytest.raises(UserError) as refusal:
                reproduce(repo, revision=revision)
            assert words in one_sentence(refusal.value)

    @pytest.mark.parametrize(
        "words",
        [
            ["tlm", "release", "push", "--target", "x", "--output-dir", "{output}"],
            ["tlm", "pretrain", "--output-dir", "elsewhere"],
            ["tlm", "pretrain", "--output_dir=elsewhere"],
            ["tlm", "pretrain", "--nothing", "1", "--output-dir", "{output}"],
            ["tlm", "finetune", "--output-dir", "{output}"],
            ["rm", "pretrain", "--output-dir", "{output}"],
            ["tlm", "pretrain", "--corpus", "docstrings", "--output-dir=elsewhere", "{output}"],
            ["tlm", "pretrain", "--output-dir", "elsewhere", "--output-dir", "{output}"],
            ["tlm", "pretrain", "elsewhere", "--output-dir", "{output}"],
            ["tlm", "pretrain", "--tokenizer", "{output}", "--output-dir", "{output}"],
            ["tlm", "pretrain", "--corpus", "docstrings"],
        ],
    )
    def test_a_command_of_a_stranger_is_not_run(self, copy, one_sentence, monkeypatch, words):
        folder = copy / OWNER / "tlm-bert1"
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["reproduce"]["command"] = words
        (folder / "manifest.json").write_text(json.dumps(manifest))
        ran = []
        monkeypatch.setattr("tlm_hf.hub.release_reproduce._run", ran.append)
        with pytest.raises(UserError) as refusal:
            reproduce(str(folder), run=True)
        one_sentence(refusal.value)
        assert ran == []

    @pytest.mark.parametrize("key", ["{output}", "{repository}", "{base}", "docstrings"])
    def test_a_stranger_puts_nothing_in_place_of_words(self, copy, one_sentence, monkeypatch, key):
        folder = copy / OWNER / "tlm-bert1"
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["reproduce"]["inputs"] = {key: {"repository": f"{OWNER}/tlm-bert2", "weights": "new"}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        monkeypatch.setattr("tlm_hf.hub.release_reproduce._run", lambda words: pytest.fail(str(words)))
        with pytest.raises(UserError) as refusal:
            reproduce(str(folder), run=True)
        assert key in one_sentence(refusal.value)

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": ["encoder"]},
            {"repository": 7},
            {"run": None},
            {"files": {}},
            {"files": {"model.safetensors": {}}},
            {"reproduce": {"command": ["tlm", 7], "inputs": {}}},
            {"reproduce": {"command": [["tlm"]], "inputs": {}}},
            {"reproduce": {"command": "tlm pretrain", "inputs": {}}},
            {"reproduce": {"command": ["tlm"], "inputs": None}},
            {"reproduce": {"command": ["tlm"], "inputs": {"{base}": {"weights": "new"}}}},
        ],
    )
    def test_a_damaged_manifest_is_one_sentence(self, copy, one_sentence, monkeypatch, change):
        folder = copy / OWNER / "tlm-bert1"
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        monkeypatch.setattr("tlm_hf.hub.release_reproduce._run", lambda words: pytest.fail(str(words)))
        with pytest.raises(UserError) as refusal:
            reproduce(str(folder), run=True)
        assert "manifest.json is damaged" in one_sentence(refusal.value)

    @pytest.mark.parametrize("words", [["--size", "laptop"], ["--size", "smoke", "--num-train-epochs", "1000000"], []])
    def test_a_long_run_waits_to_be_asked_for(self, copy, monkeypatch, words):
        folder = copy / OWNER / "tlm-bert1"
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["reproduce"]["command"] = ["tlm", "pretrain", *words, "--output-dir", "{output}"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        monkeypatch.setattr("tlm_hf.hub.release_reproduce._run", lambda words: pytest.fail(str(words)))
        assert "--run" in reproduce(str(folder))["table"]

    def test_a_space_is_not_trained(self, output, one_sentence):
        with pytest.raises(UserError) as refusal:
            reproduce(str(output / OWNER / "tlm-demo"))
        assert "space" in one_sentence(refusal.value)

    def test_another_base_is_refused(self, copy, one_sentence):
        shutil.copy(copy / OWNER / "tlm-bert1@seed-1" / "model.safetensors", copy / OWNER / "tlm-bert1")
        with pytest.raises(UserError) as refusal:
            reproduce(str(copy / OWNER / "tlm-bert1-words"))
        assert f"{OWNER}/tlm-bert1 has other weights" in one_sentence(refusal.value)
