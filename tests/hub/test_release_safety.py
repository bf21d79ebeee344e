"""What must not go up. Oracle: the planted secret, path or file."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_family import OWNER, family, staged

from tlm_hf.errors import UserError
from tlm_hf.hub.data_folder import dataset_facts
from tlm_hf.hub.model_folder import code_files
from tlm_hf.hub.release_entries import DataEntry
from tlm_hf.hub.safety import check_folder, redact, without_paths
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
def folder(tmp_path):
    shutil.copytree(staged() / OWNER / "tlm-bert1", tmp_path / "tlm-bert1")
    return tmp_path / "tlm-bert1"


def refusal_of(folder, one_sentence):
    with pytest.raises(UserError) as refusal:
        check_folder(folder, code_files(folder))
    return one_sentence(refusal.value)


def test_what_was_staged_is_safe(folder):
    check_folder(folder, code_files(folder))


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize("file", ["README.md", "config.json", "rows.parquet"])
def test_secrets_stop_it_and_are_not_shown(folder, one_sentence, what, file):
    if file.endswith(".parquet"):
        pq.write_table(pa.table({"text": ["harmless", f"see {PLANTED[what]} there"]}), folder / file)
    else:
        (folder / file).write_text((folder / file).read_text() + f'\n"{PLANTED[what]}"\n')
    message = refusal_of(folder, one_sentence)
    assert what in message
    assert file in message
    assert PLANTED[what] not in message
    assert PLANTED[what] not in redact(f"it said {PLANTED[what]}")


def test_paths_and_names_of_this_machine(folder, one_sentence, monkeypatch):
    original = (folder / "config.json").read_text()
    monkeypatch.setenv("LOGNAME", "mabel-tester")
    for planted, words in (
        (str(folder.parent.resolve() / "x"), "path of this machine"),
        ("/ho" + "me/somebody/models", "home folder"),
        ("mabel-tester", "user"),
    ):
        monkeypatch.chdir(folder.parent)
        (folder / "config.json").write_text(original.replace("{", f'{{"note": "{planted}", ', 1))
        assert words in refusal_of(folder, one_sentence)


def test_foreign_files_and_code(folder, one_sentence):
    (folder / "model.bin").write_bytes(pickle.dumps({}))
    assert "model.bin" in refusal_of(folder, one_sentence)
    (folder / "model.bin").unlink()
    (folder / "extra.py").write_text("print()\n")
    assert "extra.py" in refusal_of(folder, one_sentence)
    (folder / "extra.py").unlink()
    with (folder / "modeling_tlm.py").open("a") as file:
        file.write("import os\n")
    assert "modeling_tlm.py" in refusal_of(folder, one_sentence)


def test_arrays_that_need_pickle(folder, one_sentence):
    np.savez(folder / "answers.npz", answers=np.array([{"a": 1}], dtype=object))
    assert "answers.npz" in refusal_of(folder, one_sentence)


def test_links(folder, one_sentence):
    (folder / "more.json").symlink_to(folder / "config.json")
    assert "more.json" in refusal_of(folder, one_sentence)


def test_absolute_paths_are_cut_and_the_rest_is_left(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    value = {"a": [f"{tmp_path}/runs/first", "outputs/x"], "b": 1.5, "c": "a/b", "d": f"--x={tmp_path}/y"}
    assert without_paths(value) == {"a": ["first", "outputs/x"], "b": 1.5, "c": "a/b", "d": "--x=y"}


class TestPlaces:
    """Folders of a machine that are neither its home nor where the command is started."""

    @pytest.fixture
    def disk(self, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        return tmp_path / "disk" / "me"

    @pytest.mark.parametrize("planted", ["runs/first", "runs/base/config.json", "texts/ag_news"])
    @pytest.mark.parametrize("before", ["", "read from ", "file:" + "//", "two lines\\n", "--corpus="])
    def test_runs_and_texts_are_not_named(self, folder, disk, one_sentence, monkeypatch, planted, before):
        path = f"{disk}/{planted}"
        original = (folder / "config.json").read_text()
        (folder / "config.json").write_text(original.replace("{", f'{{"note": "{before}{path}", ', 1))
        check_folder(folder, code_files(folder))  # nobody has said yet that it is private
        monkeypatch.setenv("TLM_DATA", str(disk / "texts"))
        with pytest.raises(UserError) as refusal:
            check_folder(folder, code_files(folder), [disk / "runs" / "first"])
        assert "config.json holds a path of this machine" in one_sentence(refusal.value)

    def test_a_link_to_a_run_names_neither_end(self, folder, disk, one_sentence):
        (disk / "runs" / "first").mkdir(parents=True)
        (disk.parent.parent / "here" / "link").symlink_to(disk / "runs" / "first")
        (folder / "config.json").write_text(f'{{"note": "{disk}/runs/first"}}')
        with pytest.raises(UserError) as refusal:
            check_folder(folder, code_files(folder), [Path("link")])
        assert "path of this machine" in one_sentence(refusal.value)

    @pytest.mark.parametrize("text", ["https://example.org{}/x", "outputs{}"])
    def test_what_only_looks_like_it(self, folder, disk, text):
        place = disk / "runs"
        (folder / "config.json").write_text('{"note": "' + text.format(place) + '"}')
        check_folder(folder, code_files(folder), [place])

    def test_a_run_on_another_disk_is_staged_without_its_place(self, disk, tmp_path):
        run = disk / "runs" / "first"
        shutil.copytree(family() / "encoder", run)
        results = json.loads((run / "results.json").read_text())
        results["command"] = f"tlm pretrain --tokenizer {disk}/tokenizer --output-dir {run}"
        results["settings"]["note"] = f"{disk}/runs/old"
        results["history"] = [{"saved": f"to {run}/checkpoint-3"}]
        (run / "results.json").write_text(json.dumps(results))
        words = f"version: 0.1.0\nnamespace: {OWNER}\nencoders:\n  tlm-bert1: {{run: {run}}}\n"
        Path("release.yaml").write_text(words)
        stage("release.yaml", str(tmp_path / "out"))
        folder = tmp_path / "out" / OWNER / "tlm-bert1"
        assert not [
            path for path in folder.iterdir() if path.suffix in (".json", ".md") and str(disk) in path.read_text()
        ]
        staged_results = json.loads((folder / "results.json").read_text())
        assert staged_results["command"] == "tlm pretrain --tokenizer tokenizer --output-dir first"
        assert staged_results["settings"]["note"] == "old"
        assert staged_results["history"] == [{"saved": "to checkpoint-3"}]

    def test_fields_of_paths_are_cut_wherever_they_point(self, disk):
        found = {
            "settings": {"corpus": "/data/me/My texts/a.txt", "words": ["/scratch/x", "a/b", 1], "one": "/data"},
            "command": "/opt/bin/tlm pretrain --corpus '/mnt/big disk/a.txt' --model=/data/me/first --x a/b "
            "--map ag=/data/me/ag --of pair:/data/me/p --from https://example.org/a/b --root $TLM_DATA/ag_news",
            "reproduce": {"command": ["tlm", "--model", "/data/me/first", "{output}"]},
            "note": "see /data/me/first",
        }
        assert without_paths(found) == {
            "settings": {"corpus": "a.txt", "words": ["x", "a/b", 1], "one": "data"},
            "command": "tlm pretrain --corpus 'a.txt' --model=first --x a/b "
            "--map ag=ag --of pair:p --from https://example.org/a/b --root $TLM_DATA/ag_news",
            "reproduce": {"command": ["tlm", "--model", "first", "{output}"]},
            "note": "see /data/me/first",
        }
        assert without_paths({"note": "see /data/me/first"}, [Path("/data/me/first")]) == {"note": "see first"}


class TestLicences:
    @pytest.fixture
    def data(self, tmp_path):
        shutil.copytree(family() / "texts", tmp_path / "texts")
        return tmp_path / "texts"

    def edit(self, data, old, new):
        text = (data / "README.md").read_text()
        assert old in text
        (data / "README.md").write_text(text.replace(old, new, 1))

    def test_an_unknown_licence_is_refused(self, data, one_sentence):
        self.edit(data, "license: mit", "license: unknown")
        with pytest.raises(UserError) as refusal:
            dataset_facts(DataEntry("tlm-texts", data), licence_checked=True)
        assert "licence" in one_sentence(refusal.value)

    def test_the_text_must_say_it_too(self, data, one_sentence):
        self.edit(data, "Licence: MIT.", "Its licence is not known to the program that wrote this card: say it here.")
        with pytest.raises(UserError) as refusal:
            dataset_facts(DataEntry("tlm-texts", data), licence_checked=True)
        assert "in the text" in one_sentence(refusal.value)

    def test_ag_news_needs_somebody_who_has_looked(self, data, one_sentence):
        self.edit(data, "license: mit", "license: other\nlicense_name: ag-corpus-research-non-commercial")
        entry = DataEntry("tlm-texts", data)
        with pytest.raises(UserError) as refusal:
            dataset_facts(entry, licence_checked=False)
        assert "--i-have-checked-the-licence" in one_sentence(refusal.value)
        assert dataset_facts(entry, licence_checked=True)["configs"]

    def test_rows_that_were_changed(self, data, one_sentence):
        (data / "40" / "train-00000-of-00001.parquet").write_bytes(b"x")
        with pytest.raises(UserError) as refusal:
            dataset_facts(DataEntry("tlm-texts", data), licence_checked=True)
        assert "changed" in one_sentence(refusal.value)
