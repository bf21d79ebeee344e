"""`tlm release verify`: what was staged opens without the package, and what was changed does not pass."""

import json
import shutil

import pytest
from conftest import refusal
from helpers_family import OWNER, staged, write_record

from tlm_hf.errors import UserError
from tlm_hf.hub.push import push
from tlm_hf.hub.verify import verify


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(staged(), tmp_path / "release")


def keep(release, *names):
    """Take all but these repositories out of the record; the hashes are those of the folders."""
    record = json.loads((release / "release.json").read_text())
    record["repositories"] = [each for each in record["repositories"] if each["repo_id"].split("/")[1] in names]
    write_record(release, record)


def refusal_of(release):
    return refusal(verify, str(release))


def test_one_repository_of_each_kind_passes(copy):
    names = ["tlm-bert1", "tlm-words-frozen", "tlm-demo"]
    keep(copy, *names)
    checks = verify(str(copy))["checks"]
    assert set(checks) == {f"{OWNER}/{name}" for name in [*names, "tlm-bert1@seed-1"]}
    assert "AutoModelForMaskedLM with trust, and without it equal" in checks[f"{OWNER}/tlm-bert1@seed-1"]
    assert "AutoModelForSequenceClassification with trust" in checks[f"{OWNER}/tlm-words-frozen"]
    assert "the app answers for words" in checks[f"{OWNER}/tlm-demo"]
    assert set(json.loads((copy / "verified.json").read_text())["checks"]) == set(checks)


def test_a_broken_branch_is_not_verified(copy):
    """What only the snippet finds, in the branch alone: main is as it was."""
    folder = copy / OWNER / "tlm-bert1@seed-1"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"mask_token": "[NONE]"}))
    keep(copy, "tlm-bert1")
    (copy / "verified.json").unlink()
    assert "tlm-bert1@seed-1 does not open" in refusal_of(copy)
    assert not (copy / "verified.json").exists()


@pytest.mark.parametrize("file", ["config.json", "manifest.json", "extra.md"])
def test_what_was_changed_after_staging_is_not_verified_or_pushed(copy, file):
    path = copy / OWNER / "tlm-committee-words" / file
    path.write_text(json.dumps({"version": "9.9.9"}))
    assert "tlm-committee-words was changed" in refusal_of(copy)
    with pytest.raises(UserError, match="tlm-committee-words"):
        push(str(copy))


def test_a_record_that_was_changed_is_not_pushed(copy):
    keep(copy, "tlm-bert1")
    with pytest.raises(UserError, match="not verified"):
        push(str(copy))
