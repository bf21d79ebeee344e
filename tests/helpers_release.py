"""The local Hub for tests of releases, and a client in this process that reaches it."""

import contextlib
import time
import types
from unittest import mock

import huggingface_hub
from hub_server.local_hub import LocalHub
from huggingface_hub import constants
from huggingface_hub.utils import _http

from tlm_hf.hub import client as client_module
from tlm_hf.hub.client import Hub

TOKEN = "hf_" + "TestTokenOfNobody" * 2
OWNER = "tiny-lab"


@contextlib.contextmanager
def local_hub():
    """A running hub with a user who may write to `tiny-lab`; `huggingface_hub` is online meanwhile, without Xet."""
    with (
        LocalHub() as hub,
        mock.patch.object(constants, "HF_HUB_OFFLINE", False),
        mock.patch.object(constants, "HF_HUB_DISABLE_XET", True),
    ):
        hub.add_user("someone", TOKEN, organizations={OWNER: "write"})
        yield hub


@contextlib.contextmanager
def hurry():
    """Waits between attempts, ours and those of huggingface_hub, cost no time; yields them in seconds."""
    waits = []
    impatient = types.SimpleNamespace(**{**vars(time), "sleep": waits.append})
    with mock.patch.object(_http, "time", impatient), mock.patch.object(client_module, "time", impatient):
        yield waits


def client(hub, token=TOKEN):
    return Hub(token=token, endpoint=hub.url)


def api(hub, token=TOKEN):
    return huggingface_hub.HfApi(endpoint=hub.url, token=token)
