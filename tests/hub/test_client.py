"""What is tried again, what is said at once. Oracle: huggingface_hub's own errors."""

from unittest import mock

import httpx2
import pytest
from helpers_release import TOKEN, hurry
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from tlm_hf.errors import UserError
from tlm_hf.hub.client import WAITS, Hub


def answer(status):
    """The error that huggingface_hub raises for an answer."""
    response = httpx2.Response(status, request=httpx2.Request("GET", "http://127.0.0.1:9/x"))
    return HfHubHTTPError(f"{status} for url", response=response)


def call(*errors):
    """Call a function that raises each error once, then returns; what it returned or why not, and the waits."""
    left = list(errors)

    def repo_info(*_):
        if left:
            raise left.pop(0)
        return "done"

    with hurry() as waits, mock.patch.object(HfApi, "repo_info", repo_info):
        try:
            return Hub(token=TOKEN, endpoint="http://127.0.0.1:9").repo_info("owner/name"), waits
        except UserError as refusal:
            return refusal, waits


@pytest.mark.parametrize("error", [httpx2.ReadTimeout("x"), ConnectionResetError("x"), answer(503), answer(429)])
def test_failures_that_pass_are_tried_again(error):
    assert call(error) == ("done", list(WAITS[:1]))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "model.safetensors"), "model.safetensors"),
        (OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (answer(401), "hf auth login"),
        (answer(507), "refuses it"),
        (PermissionError(13, "Permission denied", "model.safetensors"), "Permission denied"),
        (OSError(f"cannot open {TOKEN}"), "cannot open ***"),
    ],
)
def test_what_does_not_pass_is_said_at_once(one_sentence, error, words):
    refusal, waits = call(error)
    assert words in one_sentence(refusal)
    assert TOKEN not in str(refusal)
    assert waits == []


def test_it_gives_up_after_all_attempts(one_sentence):
    refusal, waits = call(*[httpx2.ConnectError("x")] * 9)
    assert "push again later" in one_sentence(refusal)
    assert waits == list(WAITS)
