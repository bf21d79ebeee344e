"""What a push sends, in which order, and what it refuses before it writes anything."""

import re
import shutil

import pytest
from conftest import refusal
from helpers_commands import contents, succeed
from helpers_commands import refused as command_refused
from helpers_family import OWNER, edit, family, staged
from helpers_release import TOKEN, api, client, local_hub
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError

from tlm_hf.errors import UserError
from tlm_hf.hub.push import push, status

BERT = f"{OWNER}/tlm-bert1"
REPOSITORIES = {
    "model": ["tlm-bert1", "tlm-bert2", "tlm-conv", "tlm-lora", "tlm-bert1-words", "tlm-bert2-words", "tlm-scratch",
              "tlm-committee-words", "tlm-words-frozen"],
    "space": ["tlm-demo"],
}  # fmt: skip
ORDER = [(kind, f"{OWNER}/{name}") for kind, names in REPOSITORIES.items() for name in names]


@pytest.fixture(scope="module")
def released():
    """A hub to which 0.1.0 was pushed."""
    with local_hub() as running:
        push(str(staged()), hub=client(running))
        yield running


@pytest.fixture
def hub(released):
    before = released.state
    released.state = before.copy()
    released.requests.clear()
    yield released
    released.faults.clear()
    released.state = before


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(staged(), tmp_path / "release")


def refused(hub, release, **options):
    before = hub.state.snapshot()
    hub.requests.clear()
    said = refusal(push, str(release), hub=client(hub), **options)
    assert {request.method for request in hub.requests} <= {"GET", "HEAD"}
    assert hub.state.snapshot() == before
    planned = status(str(release), hub=client(hub))
    assert planned["refused"] > 0
    assert "REFUSED" in planned["table"]
    return said


class TestSent:
    def test_everything_in_order_in_one_commit_each(self, hub):
        assert list(hub.state.repositories) == ORDER
        for kind, name in ORDER:
            files = hub.files(kind, name)
            assert files.pop(".gitattributes")
            assert files == {path: (staged() / name / path).read_bytes() for path in contents(staged() / name)}
            assert hub.commits(kind, name) == ["Release 0.1.0", "initial commit"]
            assert hub.repository(kind, name).private
            assert hub.repository(kind, name).tags == {"v0.1.0": hub.repository(kind, name).branches["main"]}
        branch = hub.files("model", BERT, "seed-1")
        assert branch["model.safetensors"] == (family() / "encoder-1" / "model.safetensors").read_bytes()
        with pytest.raises(RepositoryNotFoundError):
            api(hub, token=False).model_info(BERT)

    def test_dry_run_and_status_change_nothing_and_name_every_file(self):
        with local_hub() as empty:
            found = push(str(staged()), hub=client(empty), dry_run=True)
            assert not empty.state.repositories
            for path in (staged() / OWNER).rglob("*"):
                if path.is_file():
                    name = re.escape("/".join(path.relative_to(staged() / OWNER).parts[1:]))
                    assert re.search(rf"send\s+{path.stat().st_size:,} bytes  {name}$", found["table"], re.MULTILINE)
            assert "here 0.1.0, there 0.1.0" not in status(str(staged()), hub=client(empty))["table"]

    def test_public_in_the_end_and_nothing_before_the_last_upload(self):
        with local_hub() as other:
            other.fault("status", method="POST", path="tlm-demo/commit/", code=403, times=1000)
            with pytest.raises(UserError):
                push(str(staged()), hub=client(other), public=True)
            assert all(each.private for each in other.state.repositories.values())
            other.faults.clear()
            push(str(staged()), hub=client(other), public=True)
            assert not any(each.private for each in other.state.repositories.values())

    def test_only_changed_files_are_sent(self, hub, copy):
        edit(copy, "tlm-bert2", "0.1.1")
        hub.requests.clear()
        assert push(str(copy), hub=client(hub))["commits"] == 1
        assert not [request for request in hub.requests if request.method == "PUT"]
        assert hub.commits("model", f"{OWNER}/tlm-bert2")[0] == "Release 0.1.1"
        assert set(hub.repository("model", BERT).tags) == {"v0.1.0", "v0.1.1"}


class TestRefused:
    def test_someone_elses_change_of_the_last_repository_stops_the_first_too(self, hub, copy):
        edit(copy, "tlm-bert1", "0.2.0")
        hub.foreign_commit("space", f"{OWNER}/tlm-demo", {"app.py": b"print()\n", "notes.md": b"mine\n"})
        edit(copy, "tlm-demo", "0.2.0")
        assert "tlm-demo was changed by others (app.py)" in refused(hub, copy)
        assert push(str(copy), hub=client(hub), overwrite=True)["commits"] == 2
        assert "notes.md" not in hub.files("space", f"{OWNER}/tlm-demo")

    @pytest.mark.parametrize("folder", ["tlm-bert1", "tlm-bert1@seed-1"])
    def test_a_version_is_taken_once_and_does_not_go_back(self, hub, copy, folder):
        edit(copy, folder)
        assert f"{folder} was released as 0.1.0 with other content" in refused(hub, copy)
        refused(hub, copy, overwrite=True)
        edit(copy, folder, "0.10.0")
        push(str(copy), hub=client(hub))
        edit(copy, folder, "0.9.0")
        assert "released as 0.10.0 with other content, and 0.9.0 is not newer" in refused(hub, copy)

    @pytest.mark.parametrize(
        ("token", "role", "organizations", "words"),
        [
            ("hf_" + "Nobody" * 6, None, {}, "does not accept the token"),
            ("hf_" + "Reader" * 6, "read", {OWNER: "write"}, "write access"),
            ("hf_" + "Stranger" * 5, "write", {}, "write access"),
            ("hf_" + "Member" * 6, "write", {OWNER: "read"}, "write access"),
        ],
    )
    def test_tokens_without_rights(self, hub, token, role, organizations, words):
        if role is not None:
            hub.add_user("another", token, role=role, organizations=organizations)
        del hub.state.repositories["space", f"{OWNER}/tlm-demo"]
        before = hub.state.snapshot()
        said = refusal(push, str(staged()), hub=client(hub, token))
        assert words in said
        assert token not in said
        assert hub.state.snapshot() == before


class TestWhatIsThere:
    @pytest.mark.parametrize("kind", ["space", "model"])
    def test_the_hubs_own_first_commit_is_nobodys_change(self, hub, kind):
        """A Space begins with a README of the Hub's own, until a user writes another."""
        name = {"space": f"{OWNER}/tlm-demo", "model": BERT}[kind]
        del hub.state.repositories[kind, name]
        api(hub).create_repo(name, repo_type=kind, **({"space_sdk": "gradio"} if kind == "space" else {}))
        if kind == "space":
            before = hub.state.copy()
            hub.foreign_commit("space", name, {"README.md": b"mine\n"})
            assert "README.md" in refused(hub, staged())
            hub.state = before
        (only,) = hub.repository(kind, name).commits.values()
        only.files["thesis.csv"] = only.files[".gitattributes"]  # someone's history, squashed
        assert "thesis.csv" in refused(hub, staged())
        del only.files["thesis.csv"]
        push(str(staged()), hub=client(hub))
        assert hub.files(kind, name)["README.md"] == (staged() / name / "README.md").read_bytes()

    def test_branches_that_are_missing_or_begun(self, hub):
        found = hub.repository("model", BERT)
        for begun in (False, True):  # by a push that was interrupted
            found.branches.pop("seed-1")
            if begun:
                found.branches["seed-1"] = found.branches["main"]
            assert push(str(staged()), hub=client(hub))["commits"] == 1
            assert hub.files("model", BERT, "seed-1").keys() == hub.files("model", BERT).keys()

    def test_a_release_that_others_changed_comes_back_under_its_own_version(self, hub):
        hub.foreign_commit("model", BERT, {"notes.md": b"mine\n"})
        tagged = hub.repository("model", BERT).tags["v0.1.0"]
        assert push(str(staged()), hub=client(hub), overwrite=True)["commits"] == 1
        assert "notes.md" not in hub.files("model", BERT)
        assert hub.repository("model", BERT).tags["v0.1.0"] == tagged


def test_a_second_push_by_the_command_changes_nothing(hub, monkeypatch, capsys):
    """With the hub and the token in the environment alone; nothing shows the token."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    before = hub.state.snapshot()
    succeed("release", "push", "--output-dir", staged())
    assert {request.method for request in hub.requests} == {"GET"}
    assert hub.state.snapshot() == before
    said = capsys.readouterr()
    assert "0 commits; tag v0.1.0" in said.out
    assert TOKEN not in said.out + said.err


def test_words_that_cannot_be_done(capsys, monkeypatch):
    monkeypatch.setattr("tlm_hf.hub.client.get_token", lambda: None)
    output = ("--output-dir", staged())
    assert "hf auth login" in command_refused(capsys, "release", "push", *output)
    assert "release stage" in command_refused(capsys, "release", "push", *output, "--release-file", "other.yaml")
