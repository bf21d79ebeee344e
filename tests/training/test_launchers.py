"""Processes that were started wrongly, and the chosen precision."""

import re
from pathlib import Path

import pytest
import torch
from conftest import refusal
from transformers import TrainingArguments

from tlm_hf.training import options
from tlm_hf.training.options import choose_precision, has_fast_bf16


def test_processes_that_do_not_know_each_other_are_refused(monkeypatch, tmp_path):
    """As torchrun starts them where Trainer does not know that they are to stay on the CPU."""
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "started 2 processes" in refusal(options.report_processes, arguments)


def test_precision_follows_the_processor(monkeypatch):
    """Oracle: the flags that the kernel lists."""
    lines = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", lines.read_text(), re.M) if lines.is_file() else None
    if flags is None:
        pytest.skip("no list of this processor's flags")
    expected = bool({"avx512_bf16", "amx_bf16"} & set(flags[1].split()))
    assert has_fast_bf16(use_cpu=True) == expected
    for features in ({"avx512_bf16": True}, {"amx_bf16": True}, {}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda features=features: features)
        assert has_fast_bf16(use_cpu=True) == bool(features)


@pytest.mark.parametrize(
    ("asked", "launcher", "fast", "chosen"),
    [
        ("auto", "no", False, False),
        (True, "no", False, True),
        ("False", None, True, False),
        ("auto", "bf16", False, True),
        ("auto", None, True, True),
    ],
)
def test_chosen_precision(monkeypatch, asked, launcher, fast, chosen):
    monkeypatch.setattr(options, "has_fast_bf16", lambda use_cpu: fast)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launcher is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert choose_precision(asked) is chosen


@pytest.mark.parametrize(("asked", "launcher"), [("fp16", "no"), ("", "no"), ("auto", "fp16"), ("false", "bf16")])
def test_refused_precision(monkeypatch, asked, launcher):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    refusal(choose_precision, asked)
