"""The local Hub against the official client as it is: commits, parents, LFS, rights, faults as the client sees them."""

from pathlib import Path

import httpx2
import pytest
from helpers_release import OWNER, TOKEN, api, local_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

NAME = f"{OWNER}/model"


@pytest.fixture
def hub():
    with local_hub() as running:
        yield running


@pytest.fixture
def user(hub):
    found = api(hub)
    found.create_repo(NAME, private=True)
    return found


def send(user, **files):
    operations = [CommitOperationAdd(path.replace("_", "."), content) for path, content in files.items()]
    return user.create_commit(NAME, operations, commit_message="some files")


def test_commits_files_history_and_refs(user, tmp_path):
    first = send(user, a_txt=b"one", b_safetensors=b"weights")
    tree = {item.path: item for item in user.list_repo_tree(NAME, recursive=True)}
    assert (tree["b.safetensors"].lfs.size, tree["a.txt"].lfs) == (7, None)
    user.create_tag(NAME, tag="v1")
    user.create_branch(NAME, branch="step/500")
    user.create_commit(NAME, [CommitOperationDelete("a.txt")], commit_message="less")
    assert [commit.title for commit in user.list_repo_commits(NAME)] == ["less", "some files", "initial commit"]
    refs = user.list_repo_refs(NAME)
    assert {branch.name for branch in refs.branches} == {"main", "step/500"}
    assert {tag.name: tag.target_commit for tag in refs.tags} == {"v1": first.oid}
    with pytest.raises(EntryNotFoundError):
        user.hf_hub_download(NAME, "a.txt", cache_dir=tmp_path)
    for revision in (first.oid, "v1", "step/500"):
        folder = Path(user.snapshot_download(NAME, revision=revision, cache_dir=tmp_path))
        assert (folder / "a.txt").read_bytes() == b"one"
        assert (folder / "b.safetensors").read_bytes() == b"weights"


def test_parents_and_cards_are_checked(hub, user):
    head = user.model_info(NAME).sha
    hub.foreign_commit("model", NAME, {"theirs.txt": b"x"})
    with pytest.raises(HfHubHTTPError) as refusal:
        user.create_commit(NAME, [CommitOperationAdd("a", b"x")], commit_message="late", parent_commit=head)
    assert refusal.value.response.status_code == 412
    assert "a" not in hub.files("model", NAME)
    with pytest.raises(ValueError, match="mine"):
        send(user, README_md=b"---\nlicense: mine\n---\n")
    send(user, README_md=b"---\nlicense: mit\n---\n")
    assert user.model_info(NAME).card_data.license == "mit"


def test_rights(hub, user):
    hub.add_user("reader", "hf_reader", role="read", organizations={OWNER: "read"})
    hub.add_user("stranger", "hf_stranger")
    assert api(hub, "hf_reader").model_info(NAME).private
    for token in ("hf_stranger", False):
        with pytest.raises(RepositoryNotFoundError):
            api(hub, token).model_info(NAME)
    for status, call in (
        (403, lambda: api(hub, "hf_reader").create_branch(NAME, branch="no")),
        (401, lambda: api(hub, "hf_nobody").whoami()),
        (403, lambda: api(hub).create_repo("elsewhere/model")),
    ):
        with pytest.raises(HfHubHTTPError) as refusal:
            call()
        assert refusal.value.response.status_code == status
    user.update_repo_settings(NAME, private=False)
    assert not api(hub, False).model_info(NAME).private


@pytest.mark.parametrize("kind", ["refuse", "lost_reply", "cut_download", "cut_upload"])
def test_connections_are_really_cut_and_what_was_applied_stays(hub, user, kind):
    hub.fault(kind, method="POST", path="/branch/", bytes=1)
    with pytest.raises(httpx2.TransportError):
        user.create_branch(NAME, branch="other")
    assert ("other" in hub.repository("model", NAME).branches) == (kind in ("lost_reply", "cut_download"))
    user.model_info(NAME)  # once only


def test_answers_of_trouble(hub, user):
    send(user, a_txt=b"x")
    for kind, options, code in (("status", {"code": 507}, 507), ("quota", {}, 403)):
        hub.fault(kind, method="POST", path="/commit/", **options)
        with pytest.raises(HfHubHTTPError) as refusal:
            send(user, a_txt=b"y")
        assert refusal.value.response.status_code == code
    hub.fault("half_lfs", method="PUT", bytes=3)
    with pytest.raises(RuntimeError):
        send(user, b_safetensors=b"weights")
    assert {path: content for path, content in hub.files("model", NAME).items() if path[0] != "."} == {"a.txt": b"x"}
    assert TOKEN not in str(hub.requests)
