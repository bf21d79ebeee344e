"""The local Hub for tests of releases, and a client in this process that reaches it."""

import contextlib
from unittest import mock

import huggingface_hub
from hub_server.local_hub import LocalHub
from huggingface_hub import constants

from tlm_hf.hub.client import Hub

TOKEN = "hf_" + "TestTokenOfNobody" * 2
OWNER = "tiny-lab"


@contextlib.contextmanager
def online():
    """Let `huggingface_hub` use the network (the tests are offline otherwise), without Xet."""
    with (
        mock.patch.object(constants, "HF_HUB_OFFLINE", False),
        mock.patch.object(constants, "HF_HUB_DISABLE_XET", True),
    ):
        yield


@contextlib.contextmanager
def local_hub():
    """A running hub with a user who may write to `tiny-lab`."""
    with LocalHub() as hub, online():
        hub.add_user("someone", TOKEN, organizations={OWNER: "write"})
        yield hub


@contextlib.contextmanager
def restored(hub):
    """What is changed on the hub meanwhile is as before afterwards, and no fault is left."""
    before = hub.state
    hub.state = before.copy()
    hub.requests.clear()
    hub.clear_faults()
    yield hub
    hub.clear_faults()
    hub.state = before


def client(hub, token=TOKEN, waits=None):
    """Our client of it; what it would wait for is noted in `waits` in place of being waited for."""
    return Hub(token=token, endpoint=hub.url, sleep=(waits if waits is not None else []).append)


def api(hub, token=TOKEN):
    return huggingface_hub.HfApi(endpoint=hub.url, token=token)
