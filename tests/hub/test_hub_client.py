"""What is tried again, what is said at once, and how long is waited.

Oracle: the HTTP standard's forms of Retry-After (RFC 9110, section 10.2.3), and huggingface_hub's own errors.
"""

import httpx2
import pytest
from helpers_release import TOKEN
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from tlm_hf.errors import UserError
from tlm_hf.hub.client import ATTEMPTS, LONGEST_WAIT_SECONDS, Hub


@pytest.fixture
def patient():
    """A client, and what it waited for in seconds."""
    waits = []
    return Hub(token=TOKEN, endpoint="http://127.0.0.1:9", sleep=waits.append), waits


def answer(status, **headers):
    """The error that huggingface_hub raises for an answer."""
    response = httpx2.Response(status, headers=headers, request=httpx2.Request("GET", "http://127.0.0.1:9/x"))
    return HfHubHTTPError(f"{status} for url", response=response)


def failing(*errors):
    """A function that raises each error once, then returns; and the list of what is left."""
    left = list(errors)

    def function():
        if left:
            raise left.pop(0)
        return "done"

    return function, left


@pytest.mark.parametrize(
    "error",
    [httpx2.ConnectError("x"), httpx2.ReadTimeout("x"), ConnectionResetError("x"), TimeoutError("x"), answer(503)],
)
def test_failures_that_pass_are_tried_again(patient, error):
    hub, waits = patient
    assert hub.call("looking", failing(error)[0]) == "done"
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "model.safetensors"), "model.safetensors"),
        (PermissionError(13, "Permission denied", "model.safetensors"), "Permission denied"),
        (OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (answer(401), "hf auth login"),
    ],
)
def test_what_does_not_pass_is_said_at_once(patient, one_sentence, error, words):
    hub, waits = patient
    with pytest.raises(UserError) as refusal:
        hub.call("sending", failing(error)[0])
    assert words in one_sentence(refusal.value)
    assert waits == []


def test_it_gives_up_after_all_attempts(patient, one_sentence):
    hub, waits = patient
    function, left = failing(*[httpx2.ConnectError("x")] * (ATTEMPTS + 3))
    with pytest.raises(UserError) as refusal:
        hub.call("sending", function)
    assert f"{ATTEMPTS} attempts" in one_sentence(refusal.value)
    assert len(left) == 3
    assert len(waits) == ATTEMPTS - 1


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("-5", 0, 0),
        ("1e9", LONGEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
        ("Fri, 31 Dec 2300 23:59:59 GMT", LONGEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
        ("soon", 0.8, 1.2),  # what is no date is as if nothing had been asked
        ("nan", 0.8, 1.2),
        ("32 Foo 99999 99:99:99 GMT", 0.8, 1.2),
    ],
)
def test_waits_as_long_as_the_hub_asks(patient, asked, low, high):
    hub, waits = patient
    hub.call("sending", failing(answer(429, **{"Retry-After": asked}))[0])
    assert low <= waits[0] <= high


def test_a_token_is_in_no_sentence(patient):
    hub, _ = patient
    with pytest.raises(UserError) as refusal:
        hub.call("sending", failing(OSError(f"cannot open {TOKEN}"))[0])
    assert TOKEN not in str(refusal.value)
