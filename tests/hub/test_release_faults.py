"""Pushes disturbed at one step: the same command again ends as if nothing had been, and readers never see a half.

`tests/stress/push_faults.py` takes every fault at every step; here each fault strikes once, at a step that it suits.
Oracle: the state of the local Hub after an undisturbed push.
"""

import pytest
from helpers_family import staged
from helpers_faults import FAULTS, ONLY_AT, STEPS, disturbed_push, first_trees, hurry, trees, with_foreign
from helpers_release import client, local_hub

from tlm_hf.hub.push import push

PASSING = ("no connection", "cut in the request", "applied, answer lost", "500", "502", "503", "504", "slow")
"""Faults that a push gets over by itself, wherever they strike once."""
CASES = [(fault, "committing", *FAULTS[fault]) for fault in FAULTS]
CASES += [("applied, answer lost", step, *FAULTS["applied, answer lost"]) for step in STEPS if step != "committing"]
CASES += [("429 with Retry-After", step, *FAULTS["429 with Retry-After"]) for step in ("asking who", "tagging")]
CASES += [(fault, step, kind, options) for fault, (kind, options, step) in ONLY_AT.items()]


@pytest.fixture(scope="module")
def ground():
    """A hub, its state before and after an undisturbed push, and the trees that a branch may be at."""
    with local_hub() as hub, hurry():
        empty = hub.state.copy()
        push(str(staged()), hub=client(hub))
        done = hub.snapshot()
        known = trees(done) | first_trees(hub)
        yield hub, empty, done, with_foreign(known)


@pytest.mark.parametrize(("fault", "step", "kind", "options"), CASES)
def test_the_same_command_again_ends_as_undisturbed(ground, fault, step, kind, options):
    hub, empty, done, known = ground
    found = disturbed_push(hub, empty, staged(), done, kind, *STEPS[step], options, known)
    assert found["struck"]
    assert found["equal"], (found["first"], found["second"])
    assert found["strange"] == []
    assert found["watched"] > 0
    assert not found["token_shown"]
    assert found["overwrite"] == (fault == "someone else commits first")
    if fault in PASSING:
        assert found["first"] == "done"
    if fault in ("401", "403", "storage is full (403)", "storage is full (507)", "never again"):
        assert found["first"] != "done"
        assert found["first"].endswith((".", ")"))
        assert "\n" not in found["first"]


def test_retry_after_is_waited_for(ground):
    hub, empty, _, _ = ground
    hub.state = empty.copy()
    hub.clear_faults()
    hub.fault("status", method="POST", path="/commit/", code=429, headers={"Retry-After": "7"})
    waits = []
    push(str(staged()), hub=client(hub, waits=waits))
    assert waits == [7.0]
