"""The local Hub against the official client as it is: parents, cards and faults as the client sees them."""

import httpx2
import pytest
from helpers_release import OWNER, api, local_hub
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError

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


@pytest.mark.parametrize("kind", ["refuse", "lost_reply", "cut_download", "cut_upload"])
def test_connections_are_really_cut_and_what_was_applied_stays(hub, user, kind):
    hub.fault(kind, method="POST", path="/branch/", bytes=1)
    with pytest.raises(httpx2.TransportError):
        user.create_branch(NAME, branch="other")
    assert ("other" in hub.repository("model", NAME).branches) == (kind in ("lost_reply", "cut_download"))
    user.model_info(NAME)  # once only


def test_half_of_a_large_file_is_refused(hub, user):
    hub.fault("half_lfs", method="PUT", bytes=3)
    with pytest.raises(RuntimeError):
        send(user, b_safetensors=b"weights")
    assert "b.safetensors" not in hub.files("model", NAME)
