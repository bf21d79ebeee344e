"""Pushes disturbed at one step: the same command again ends as if nothing had been, and no branch is ever at a half.

Oracle: the local Hub after an undisturbed push. `-m slow` takes every fault at every step.
"""

import hashlib
import shutil
from unittest import mock

import pytest
from conftest import check_sentence, refusal
from helpers_family import edit, staged
from helpers_release import TOKEN, client, hurry, local_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from tlm_hf.errors import UserError
from tlm_hf.hub.client import Hub
from tlm_hf.hub.push import push
from tlm_hf.runs.atomic_files import file_hash

REPOSITORY = "tiny-lab/tlm-bert2-words"
"""In the middle of a push."""
STEPS = {
    "looking": ("GET", rf"/api/models/{REPOSITORY}/revision/main$"),
    "making the repository": ("POST", r"/api/repos/create$"),
    "making a branch": ("POST", r"/branch/"),
    "listing files": ("GET", rf"{REPOSITORY}/tree/"),
    "checking the card": ("POST", r"/api/validate-yaml$"),
    "announcing files": ("POST", rf"{REPOSITORY}/preupload/"),
    "announcing large files": ("POST", rf"{REPOSITORY}\.git/info/lfs/objects/batch$"),
    "sending a large file": ("PUT", r"/lfs/WEIGHTS$"),
    "checking a large file": ("POST", r"/lfs/verify/"),
    "committing": ("POST", rf"{REPOSITORY}/commit/"),
    "tagging": ("POST", rf"{REPOSITORY}/tag/"),
    "listing tags": ("GET", rf"{REPOSITORY}/refs$"),
}
FAULTS = {
    "no connection": ("refuse", {}),
    "cut in the request": ("cut_upload", {"bytes": 20}),
    "cut in the answer": ("cut_download", {"bytes": 5}),
    "applied, answer lost": ("lost_reply", {}),
    "429 with Retry-After": ("status", {"code": 429, "headers": {"Retry-After": "7"}}),
    "storage is full (403)": ("status", {"code": 403, "body": {"error": "You have exceeded your storage limit."}}),
    "never again": ("status", {"code": 503, "times": 1000}),
} | {str(code): ("status", {"code": code}) for code in (401, 403, 404, 412, 500, 502, 503, 504, 507)}
ONLY_AT = {
    "someone else commits first": ("stale_parent", {}, "committing"),
    "half of a large file is kept": ("half_lfs", {"bytes": 10}, "sending a large file"),
}


def trees(hub):
    """The tree of every commit that was made; a branch can be at no other."""
    commits = [commit for each in hub.state.repositories.values() for commit in each.commits.values()]
    return {frozenset((path, file.sha256) for path, file in commit.files.items()) for commit in commits}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A hub; by release its folder, the states before and after an undisturbed push, and the trees that are whole."""
    second = shutil.copytree(staged(), tmp_path_factory.mktemp("second") / "release")
    edit(second, "tlm-bert2-words", "0.2.0")
    with local_hub() as hub, hurry():
        releases = {}
        for name, folder in (("first", staged()), ("second", second)):
            before = hub.state.copy()
            push(str(folder), hub=client(hub))
            theirs = ("theirs.txt", hashlib.sha256(b"by someone else\n").hexdigest())
            known = trees(hub) | {tree | {theirs} for tree in trees(hub)}
            releases[name] = folder, before, hub.state.snapshot(), known
        yield hub, releases


def attempt(hub, folder, **options):
    try:
        push(str(folder), hub=client(hub), **options)
    except UserError as error:
        return str(error)
    return "done"


def disturb(ground, release, fault, step):
    """Push under a fault, then without it; returns what the first push said, None where the fault met no request."""
    hub, releases = ground
    folder, before, done, known = releases[release]
    kind, options = FAULTS[fault] if fault in FAULTS else ONLY_AT[fault][:2]
    method, path = STEPS[step]
    path = path.replace("WEIGHTS", file_hash(folder / REPOSITORY / "model.safetensors"))
    hub.state = before.copy()
    hub.faults.clear()
    planned = hub.fault(kind, method=method, path=path, **options)
    first = attempt(hub, folder)
    hub.faults.clear()
    second = attempt(hub, folder)
    assert ("--overwrite" in second) == (fault == "someone else commits first")
    if second != "done":
        attempt(hub, folder, overwrite=True)
    assert hub.state.snapshot() == done, (first, second)
    assert trees(hub) <= known
    assert TOKEN not in first + second
    return first if planned.done else None


@pytest.mark.parametrize(
    ("fault", "step", "expected"),
    [
        ("cut in the request", "committing", True),
        ("applied, answer lost", "committing", True),
        ("503", "committing", True),
        ("401", "committing", False),
        ("storage is full (403)", "committing", False),
        ("never again", "committing", False),
        ("applied, answer lost", "making the repository", True),
        ("applied, answer lost", "tagging", True),
        ("429 with Retry-After", "looking", True),
        ("someone else commits first", "committing", False),
        ("half of a large file is kept", "sending a large file", False),
    ],
)
def test_the_same_command_again_ends_as_undisturbed(ground, fault, step, expected):
    first = disturb(ground, "first", fault, step)
    assert first is not None
    assert (first == "done") == expected, first
    if first != "done":
        check_sentence(first)


@pytest.mark.slow
@pytest.mark.parametrize("release", ["first", "second"])
@pytest.mark.parametrize("step", STEPS)
def test_every_fault(ground, release, step):
    here = [fault for fault, (*_, only_at) in ONLY_AT.items() if only_at == step]
    met = [disturb(ground, release, fault, step) is not None for fault in [*FAULTS, *here]]
    assert all(met) or release == "second"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (PermissionError(13, "Permission denied", "model.safetensors"), "Permission denied"),
        (OSError(f"cannot open {TOKEN}"), "cannot open ***"),
    ],
)
def test_what_does_not_pass_is_said_at_once(monkeypatch, error, words):
    monkeypatch.setattr(HfApi, "repo_info", mock.Mock(side_effect=error))
    with hurry() as waits:
        said = refusal(Hub(token=TOKEN, endpoint="http://127.0.0.1:9").repo_info, "owner/name")
    assert words in said
    assert TOKEN not in said
    assert waits == []
