"""Pushes disturbed at one step: the same command again ends as if nothing had been, and readers never see a half.

`tests/stress/push_faults.py` takes every fault at every step; here each kind of branch in our code is met once.
Oracle: the state of the local Hub after an undisturbed push.
"""

import pytest
from helpers_family import staged
from helpers_faults import FAULTS, ONLY_AT, STEPS, disturbed_push, first_trees, trees, with_foreign
from helpers_release import client, hurry, local_hub

from tlm_hf.hub.push import push

DONE, REFUSED = True, False
CASES = [
    ("cut in the request", "committing", DONE),
    ("applied, answer lost", "committing", DONE),
    ("503", "committing", DONE),
    ("401", "committing", REFUSED),
    ("storage is full (403)", "committing", REFUSED),
    ("never again", "committing", REFUSED),
    ("applied, answer lost", "making the repository", DONE),
    ("applied, answer lost", "tagging", DONE),
    ("applied, answer lost", "adding to the collection", DONE),
    ("429 with Retry-After", "looking", DONE),
    ("someone else commits first", "committing", REFUSED),
    ("half of a large file is kept", "sending a large file", REFUSED),
]
"""Fault, step, and whether the first push gets over it by itself."""


@pytest.fixture(scope="module")
def ground():
    """A hub, its state before and after an undisturbed push, and the trees that a branch may be at."""
    with local_hub() as hub, hurry():
        empty = hub.state.copy()
        push(str(staged()), hub=client(hub))
        done = hub.snapshot()
        yield hub, empty, done, with_foreign(trees(done) | first_trees(hub))


@pytest.mark.parametrize(("fault", "step", "first"), CASES)
def test_the_same_command_again_ends_as_undisturbed(ground, one_sentence, fault, step, first):
    hub, empty, done, known = ground
    kind, options = FAULTS[fault] if fault in FAULTS else ONLY_AT[fault][:2]
    found = disturbed_push(hub, empty, staged(), done, kind, *STEPS[step], options, known)
    assert found["struck"]
    assert found["equal"], (found["first"], found["second"])
    assert found["strange"] == []
    assert found["watched"] > 0
    assert not found["token_shown"]
    assert found["overwrite"] == (fault == "someone else commits first")
    assert (found["first"] == "done") == first, found["first"]
    if not first:
        one_sentence(found["first"])
