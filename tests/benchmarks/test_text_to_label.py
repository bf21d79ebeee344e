"""The benchmark from text to label on a small table. Nothing here asserts a time."""

import json

import pytest
from conftest import TINY
from helpers_commands import refused, succeed, write_task

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification
from tlm_hf.benchmarks.contestants import CONTESTANTS
from tlm_hf.export import write_frozen

WORDS = ("benchmark", "text-to-label", "--repeats", "1", "--num-texts", "30")
SOME = ["frozen, numpy", "TF-IDF", "fastText"]


def test_every_contestant_is_a_row_or_says_why_not(tmp_path, tokenizer):
    config = TLMConfig(**TINY | {"vocab_size": len(tokenizer), "num_labels": 2})
    members = [TLMForSequenceClassification(config) for _ in range(2)]
    committee = CommitteeForSequenceClassification.from_members(members)
    write_frozen(committee, tokenizer, tmp_path / "frozen")
    write_task(tmp_path / "task")
    file = tmp_path / "f.json"
    words = ("--model", str(tmp_path / "frozen"), "--task", str(tmp_path / "task"), "--json", str(file))
    succeed(*WORDS, *words, "--contestants", *SOME)
    results = json.loads(file.read_text())
    assert {row["model"] for row in results["rows"]} | set(results["skipped"]) == {"tokenizer", *SOME}
    assert set(results["skipped"]) <= {name for name in SOME if CONTESTANTS[name][1]}
    assert all("is not installed" in reason for reason in results["skipped"].values())
    for row in results["rows"]:
        assert row["p50_ms"] <= row["p99_ms"]
        assert row["resident_mib"] > 1
    assert results["rows"][0]["ratio"] == 1


@pytest.mark.parametrize("model", ["", "no-such-folder"])
def test_without_a_frozen_committee_it_is_refused(capsys, model):
    assert "--model" in refused(capsys, *WORDS, "--model", model)
