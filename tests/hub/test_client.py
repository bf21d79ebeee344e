"""Failures that do not pass. Oracle: huggingface_hub's own errors. `test_push_faults` has those that pass."""

from unittest import mock

import pytest
from helpers_release import TOKEN, hurry
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from tlm_hf.errors import UserError
from tlm_hf.hub.client import Hub


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "model.safetensors"), "model.safetensors"),
        (OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (PermissionError(13, "Permission denied", "model.safetensors"), "Permission denied"),
        (OSError(f"cannot open {TOKEN}"), "cannot open ***"),
    ],
)
def test_what_does_not_pass_is_said_at_once(one_sentence, monkeypatch, error, words):
    monkeypatch.setattr(HfApi, "repo_info", mock.Mock(side_effect=error))
    with hurry() as waits, pytest.raises(UserError) as refusal:
        Hub(token=TOKEN, endpoint="http://127.0.0.1:9").repo_info("owner/name")
    assert words in one_sentence(refusal.value)
    assert TOKEN not in str(refusal.value)
    assert waits == []
