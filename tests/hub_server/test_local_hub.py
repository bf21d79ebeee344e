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


def test_commits_files_and_history(hub, user, tmp_path):
    first = send(user, a_txt=b"one", b_safetensors=b"weights")
    assert hub.files("model", NAME)["b.safetensors"] == b"weights"
    tree = {item.path: item for item in user.list_repo_tree(NAME, recursive=True)}
    assert tree["b.safetensors"].lfs.size == 7
    assert tree["a.txt"].lfs is None
    user.create_commit(NAME, [CommitOperationDelete("a.txt")], commit_message="less")
    assert [commit.title for commit in user.list_repo_commits(NAME)] == ["less", "some files", "initial commit"]
    with pytest.raises(EntryNotFoundError):
        user.hf_hub_download(NAME, "a.txt", cache_dir=tmp_path)
    path = user.hf_hub_download(NAME, "a.txt", revision=first.oid, cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"one"
    folder = user.snapshot_download(NAME, cache_dir=tmp_path)
    assert (Path(folder) / "b.safetensors").read_bytes() == b"weights"


def test_unchanged_files_are_not_sent_again(hub, user):
    send(user, b_safetensors=b"weights")
    hub.requests.clear()
    send(user, b_safetensors=b"weights")
    assert not [request for request in hub.requests if request.method == "PUT" or "/commit/" in request.path]


def test_parents_are_checked(hub, user):
    head = user.model_info(NAME).sha
    hub.foreign_commit("model", NAME, {"theirs.txt": b"x"})
    with pytest.raises(HfHubHTTPError) as refusal:
        user.create_commit(NAME, [CommitOperationAdd("a", b"x")], commit_message="late", parent_commit=head)
    assert refusal.value.response.status_code == 412
    assert "a" not in hub.files("model", NAME)


def test_branches_and_tags(hub, user):
    user.create_branch(NAME, branch="step/500")
    user.create_commit(NAME, [CommitOperationAdd("a", b"x")], commit_message="there", revision="step/500")
    user.create_tag(NAME, tag="v1", revision="step/500")
    assert "a" in hub.files("model", NAME, "v1")
    assert "a" not in hub.files("model", NAME)
    refs = user.list_repo_refs(NAME)
    assert {branch.name for branch in refs.branches} == {"main", "step/500"}
    with pytest.raises(HfHubHTTPError) as refusal:
        user.create_tag(NAME, tag="v1")
    assert refusal.value.response.status_code == 409


def test_rights(hub, user):
    hub.add_user("reader", "hf_reader", role="read", organizations={OWNER: "read"})
    hub.add_user("stranger", "hf_stranger")
    assert api(hub, "hf_reader").model_info(NAME).private
    with pytest.raises(HfHubHTTPError) as refusal:
        api(hub, "hf_reader").create_commit(NAME, [CommitOperationAdd("a", b"x")], commit_message="no")
    assert refusal.value.response.status_code == 403
    for token in ("hf_stranger", False):
        with pytest.raises(RepositoryNotFoundError):
            api(hub, token).model_info(NAME)
    with pytest.raises(HfHubHTTPError) as refusal:
        api(hub, "hf_nobody").whoami()
    assert refusal.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError) as refusal:
        api(hub).create_repo("elsewhere/model")
    assert refusal.value.response.status_code == 403
    user.update_repo_settings(NAME, private=False)
    assert not api(hub, False).model_info(NAME).private


def test_cards_are_checked(hub, user):
    with pytest.raises(ValueError, match="mine"):
        send(user, README_md=b"---\nlicense: mine\n---\n")
    send(user, README_md=b"---\nlicense: mit\n---\n")
    assert user.model_info(NAME).card_data.license == "mit"


def test_spaces_and_collections(hub, user):
    space = f"{OWNER}/space"
    user.create_repo(space, repo_type="space", space_sdk="gradio")
    user.add_space_variable(space, "A", "1")
    assert user.get_space_variables(space)["A"].value == "1"
    made = user.create_collection("Things", namespace=OWNER)
    user.add_collection_item(made.slug, NAME, "model", note="a model")
    user.add_collection_item(made.slug, NAME, "model", exists_ok=True)
    (found,) = user.list_collections(owner=OWNER)
    assert [item.item_id for item in user.get_collection(found.slug).items] == [NAME]


LATE = {"method": "GET", "path": "/api/models/"}


@pytest.mark.parametrize(
    ("kind", "options", "where"),
    [("refuse", {}, LATE), ("lost_reply", {}, LATE), ("cut_download", {"bytes": 5}, LATE),
     ("cut_upload", {"bytes": 5}, {"method": "POST", "path": "/branch/"})],
)  # fmt: skip
def test_connections_are_really_cut(hub, user, kind, options, where):
    hub.fault(kind, **where, **options)
    ask = (
        (lambda: user.create_branch(NAME, branch="other"))
        if "branch" in where["path"]
        else lambda: user.model_info(NAME)
    )
    with pytest.raises(httpx2.TransportError):
        ask()
    assert set(hub.repository("model", NAME).branches) == {"main"}
    user.model_info(NAME)  # once only


def test_what_was_applied_stays_though_its_answer_is_lost(hub, user):
    hub.fault("lost_reply", method="POST", path="/branch/")
    with pytest.raises(httpx2.TransportError):
        user.create_branch(NAME, branch="other")
    assert set(hub.repository("model", NAME).branches) == {"main", "other"}


@pytest.mark.parametrize(("kind", "options", "code"), [("status", {"code": 503}, 503), ("quota", {}, 403)])
def test_answers_of_trouble(hub, user, kind, options, code):
    hub.fault(kind, method="POST", path="/commit/", after=1, **options)
    send(user, a_txt=b"x")
    with pytest.raises(HfHubHTTPError) as refusal:
        send(user, a_txt=b"y")
    assert refusal.value.response.status_code == code
    assert hub.files("model", NAME)["a.txt"] == b"x"


def test_half_of_an_object_is_refused(hub, user):
    hub.fault("half_lfs", method="PUT", bytes=3)
    with pytest.raises(RuntimeError):
        send(user, b_safetensors=b"weights")
    assert "b.safetensors" not in hub.files("model", NAME)
    assert TOKEN not in str(hub.requests)
