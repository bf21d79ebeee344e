"""What a push refuses before it writes anything, and what it does with versions, branches and tags.

Oracle: the local Hub's record of requests and commits.
"""

import json
import shutil

import pytest
from helpers_family import OWNER, mark_verified, staged
from helpers_release import api, client, local_hub, restored

from tlm_hf.errors import UserError
from tlm_hf.hub.manifest import describe_files
from tlm_hf.hub.push import push, status
from tlm_hf.hub.verify import verify

BERT = f"{OWNER}/tlm-bert1"


@pytest.fixture(scope="module")
def released():
    """A hub to which 0.1.0 was pushed."""
    with local_hub() as running:
        push(str(staged()), hub=client(running))
        yield running


@pytest.fixture
def hub(released):
    with restored(released):
        yield released


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(staged(), tmp_path / "release")


def edit(release, folder, version=None):
    """Change a staged folder as staging and verifying something else would have."""
    place = release / OWNER / folder
    (place / "README.md").write_text((place / "README.md").read_text() + "\nMore.\n")
    manifest = json.loads((place / "manifest.json").read_text())
    manifest |= {"files": describe_files(place), "version": version or manifest["version"]}
    (place / "manifest.json").write_text(json.dumps(manifest))
    if version:
        record = json.loads((release / "release.json").read_text())
        (release / "release.json").write_text(json.dumps(record | {"version": version}))
    mark_verified(release)


def refused(hub, release, one_sentence, **options):
    """The sentence of a push that wrote nothing."""
    before = hub.snapshot()
    hub.requests.clear()
    with pytest.raises(UserError) as refusal:
        push(str(release), hub=client(hub), **options)
    assert {request.method for request in hub.requests} <= {"GET", "HEAD"}
    assert hub.snapshot() == before
    planned = status(str(release), hub=client(hub))
    assert planned["refused"] > 0
    assert "REFUSED" in planned["table"]
    return one_sentence(refusal.value)


class TestBeforeTheFirstWrite:
    def test_someone_elses_change_of_the_last_repository_stops_the_first_too(self, hub, copy, one_sentence):
        edit(copy, "tlm-bert1", "0.2.0")
        hub.foreign_commit("space", f"{OWNER}/tlm-demo", {"app.py": b"print()\n"})
        edit(copy, "tlm-demo", "0.2.0")
        assert "tlm-demo was changed on the Hub by others (app.py)" in refused(hub, copy, one_sentence)
        assert push(str(copy), hub=client(hub), overwrite=True)["commits"] == 2

    @pytest.mark.parametrize("folder", ["tlm-bert1", "tlm-bert1@seed-1"])
    def test_a_version_that_is_taken(self, hub, copy, one_sentence, folder):
        edit(copy, folder)
        sentence = refused(hub, copy, one_sentence)
        assert f"{OWNER}/{folder} was released as 0.1.0 with other files (README.md is one)" in sentence
        refused(hub, copy, one_sentence, overwrite=True)

    @pytest.mark.parametrize("folder", ["tlm-bert1", "tlm-bert1@seed-1"])
    def test_versions_do_not_go_back(self, hub, copy, one_sentence, folder):
        edit(copy, folder, "0.10.0")
        push(str(copy), hub=client(hub))
        edit(copy, folder, "0.9.0")
        assert f"{folder} is at 0.10.0 on the Hub, which is newer than 0.9.0" in refused(hub, copy, one_sentence)

    def test_all_refusals_are_counted(self, hub, copy, one_sentence):
        for name in ("tlm-bert1", "tlm-conv", "tlm-texts"):
            edit(copy, name)
        assert "2 more would be refused" in refused(hub, copy, one_sentence)


class TestWhatIsThere:
    @pytest.mark.parametrize("kind", ["space", "model"])
    def test_the_hubs_own_first_commit_is_nobodys_change(self, hub, kind):
        """A Space begins with a README of the Hub's own."""
        name = {"space": f"{OWNER}/tlm-demo", "model": BERT}[kind]
        del hub.state.repositories[kind, name]
        api(hub).create_repo(name, repo_type=kind, **({"space_sdk": "gradio"} if kind == "space" else {}))
        assert ("README.md" in hub.files(kind, name)) == (kind == "space")
        push(str(staged()), hub=client(hub))
        assert hub.files(kind, name)["README.md"] == (staged() / name / "README.md").read_bytes()

    def test_what_a_user_committed_to_a_new_space_is_kept(self, hub, one_sentence):
        name = f"{OWNER}/tlm-demo"
        del hub.state.repositories["space", name]
        api(hub).create_repo(name, repo_type="space", space_sdk="gradio")
        hub.foreign_commit("space", name, {"README.md": b"mine\n"})
        assert "README.md" in refused(hub, staged(), one_sentence)

    def test_a_branch_more_is_no_other_release(self, hub):
        """A branch under a version that is out already, and one that an interrupted push only began."""
        found = hub.repository("model", BERT)
        for begun in (False, True):
            found.branches.pop("seed-1")
            if begun:
                found.branches["seed-1"] = found.branches["main"]
            assert push(str(staged()), hub=client(hub))["commits"] == 1
            assert hub.files("model", BERT, "seed-1").keys() == hub.files("model", BERT).keys()

    def test_a_branch_that_is_in_no_release_any_more_is_named(self, hub):
        found = hub.repository("model", BERT)
        found.branches["seed-9"] = found.branches["main"]
        told = status(str(staged()), hub=client(hub))
        assert told["leftovers"] == [f"{BERT}@seed-9"]
        assert f"{BERT}@seed-9 is on the Hub and not in this release" in told["table"]

    def test_a_release_that_others_changed_comes_back_under_its_own_version(self, hub):
        hub.foreign_commit("model", BERT, {"notes.md": b"mine\n"})
        tagged = hub.repository("model", BERT).tags["v0.1.0"]
        assert push(str(staged()), hub=client(hub), overwrite=True)["commits"] == 1
        assert "notes.md" not in hub.files("model", BERT)
        assert hub.repository("model", BERT).tags["v0.1.0"] == tagged

    def test_the_tag_is_the_commit_that_was_made(self, hub, copy):
        """Also where someone else commits between the commit and its tag."""
        edit(copy, "tlm-bert1", "0.2.0")
        hub.fault("stale_parent", method="GET", path=rf"{BERT}/refs$")
        push(str(copy), hub=client(hub))
        found = hub.repository("model", BERT)
        titles = [commit.title for commit in found.history("main")]
        assert titles == ["by someone else", "Release 0.2.0", "Release 0.1.0", "initial commit"]
        assert found.commits[found.tags["v0.2.0"]].title == "Release 0.2.0"


def test_an_edited_manifest_is_not_verified(copy, one_sentence):
    path = copy / OWNER / "tlm-bert1" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"version": "9.9.9"}))
    with pytest.raises(UserError) as refusal:
        verify(str(copy))
    assert "tlm-bert1/manifest.json was changed" in one_sentence(refusal.value)
