"""What must not go up. Oracle: the planted secret, path or file."""

import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_family import OWNER, family, staged

from tlm_hf.errors import UserError
from tlm_hf.hub.release_data import dataset_facts
from tlm_hf.hub.release_file import DataEntry
from tlm_hf.hub.release_models import code_files
from tlm_hf.hub.safety import check_folder, redact, without_paths

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
