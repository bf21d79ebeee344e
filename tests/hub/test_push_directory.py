"""`push --target`: the same tree without a Hub. Oracle: the staged files."""

import json
import shutil

from conftest import refusal
from helpers_commands import contents
from helpers_family import OWNER, mark_verified, staged

from tlm_hf.hub.push import push_to_directory


def refused(source, target, **options):
    before = contents(target)
    said = refusal(push_to_directory, str(source), str(target), **options)
    assert contents(target) == before
    return said


def test_changes_of_the_copy_are_kept_until_overwritten(tmp_path):
    shelf = tmp_path / "shelf"
    for file in ("README.md", "manifest.json", "notes.md"):
        push_to_directory(str(staged()), str(shelf), overwrite=True)
        assert contents(shelf / OWNER) == contents(staged() / OWNER)
        assert push_to_directory(str(staged()), str(shelf))["differing"] == 0
        (shelf / OWNER / "tlm-conv" / file).write_text("mine\n")
        assert f"tlm-conv was changed by others ({file})" in refused(staged(), shelf)
    push_to_directory(str(staged()), str(shelf), overwrite=True)
    path = shelf / OWNER / "tlm-conv" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": "0.10.0"}))
    assert "0.1.0 is not newer" in refused(staged(), shelf, overwrite=True)


def test_folders_that_cannot_be_the_target(tmp_path):
    copy = shutil.copytree(staged(), tmp_path / "release")
    assert "a release is staged" in refused(staged(), copy)
    assert "a release is staged" in refused(copy, copy / "shelf")
    (copy / "verified.json").unlink()
    assert "verify" in refused(copy, tmp_path / "shelf")
    mark_verified(copy)
    push_to_directory(str(copy), str(tmp_path / "shelf"), dry_run=True)
    assert not (tmp_path / "shelf").exists()
