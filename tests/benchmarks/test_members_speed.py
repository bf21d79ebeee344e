"""Members trained in turn and side by side."""

import json

import pytest
from helpers_commands import write_corpus

from tlm_hf.benchmarks.members_speed import MembersArguments, _seconds_of_a_step, benchmark_members


def test_a_step_of_all_members(tmp_path):
    files = []
    for member, seconds in enumerate((0.2, 0.3)):
        files.append(tmp_path / f"{member}.json")
        files[-1].write_text(json.dumps({"speed": {"median_step_seconds": seconds}}))
    assert _seconds_of_a_step(files, members=2, workers=1) == pytest.approx(0.5)  # one after the other
    assert _seconds_of_a_step(files, members=2, workers=2) == 0.3  # the slower one


@pytest.mark.slow
def test_members_are_timed_both_ways(tmp_path):
    write_corpus(tmp_path / "corpus.txt")
    found = benchmark_members(
        MembersArguments(
            size="smoke", steps=10, repeats=1, corpus=str(tmp_path / "corpus.txt"), num_texts=100, members=2
        )
    )
    assert found["ways"]["in_turn"]["workers"] == 1
    assert found["ways"]["side_by_side"]["workers"] == min(2, found["ways"]["in_turn"]["threads_each"])
    seconds = found["seconds_of_a_step_of_all"]
    assert found["ratio_steps"] == seconds["in_turn"] / seconds["side_by_side"]
    assert {row["product"] for row in found["products"]} == {"keys or values", "feed-forward", "decoder"}
