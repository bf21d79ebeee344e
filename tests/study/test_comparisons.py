"""Comparing recipes, encoders and ways to train members: what is chosen by what, with outcomes worked out by hand."""

import json

import pytest
from helpers_commands import write_corpus

from tlm_hf.benchmarks.members_speed import MembersArguments, _seconds_of_a_step, benchmark_members
from tlm_hf.errors import UserError
from tlm_hf.runs.provenance import portable
from tlm_hf.study import compare_encoders as comparison
from tlm_hf.study.compare_encoders import CompareArguments, compare_encoders
from tlm_hf.study.training_search import TrainingSearchArguments, _compare, draw_curves, search_training

# (encoder, rate, seed): accuracy on validation, on test. The rate that is best on test is not the one to take.
OUTCOMES = {
    ("a", 0.001, 0): (0.8, 0.5),
    ("a", 0.003, 0): (0.7, 0.9),
    ("a", 0.001, 1): (0.1, 0.7),
    ("b", 0.001, 0): (0.2, 0.4),
    ("b", 0.003, 0): (0.3, 0.6),
    ("b", 0.003, 1): (0.3, 0.2),
}


@pytest.fixture
def encoders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return [f"a={tmp_path / 'a'}", f"b=scratch:{tmp_path / 'b'}"]


def test_validation_chooses_the_rate_of_each_encoder(encoders, tmp_path, monkeypatch):
    asked = []

    def outcomes(jobs, workers, description):
        found = {}
        for job in jobs:
            options = job.arguments
            name = "b" if options.from_scratch else "a"
            key = (name, options.learning_rate, options.seed)
            asked.append(key)
            validation, test = OUTCOMES[key]
            found[job.name] = {"validation": {"accuracy": validation}, "test": {"accuracy": test}}
        return found

    monkeypatch.setattr(comparison, "run_jobs", outcomes)
    output = tmp_path / "out" / "compared.json"
    compare_encoders(
        CompareArguments(encoders=encoders, output=str(output), learning_rates=[0.001, 0.003], seeds=[0, 1])
    )
    a, b = json.loads(output.read_text())["rows"]
    assert sorted(asked) == sorted(OUTCOMES)  # nothing else was trained
    assert (a["encoder"], a["learning_rate"], a["mean"]) == ("a", 0.001, pytest.approx(0.6))
    assert (b["encoder"], b["learning_rate"], b["mean"]) == ("b", 0.003, pytest.approx(0.4))
    assert a["sd"] == pytest.approx(0.02**0.5)
    assert a["validation"] == {"0.001": 0.8, "0.003": 0.7}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"encoders": ["a"]}, "write NAME=FOLDER"),
        ({"encoders": ["a=nowhere"]}, "nowhere is no folder of a pre-trained encoder"),
        ({"seeds": [0, 1, 1]}, "--seeds has the same value twice"),
        ({"learning_rates": [-1.0]}, "--learning-rate is -1"),
        ({"seeds": []}, "each need at least one value"),
        ({"workers": 0}, "--workers is 0"),
    ],
)
def test_bad_comparisons_are_refused(encoders, tmp_path, one_sentence, change, sentence):
    options = {"encoders": encoders, "output": str(tmp_path / "compared.json")} | change
    with pytest.raises(UserError, match=sentence) as caught:
        compare_encoders(CompareArguments(**options))
    one_sentence(caught.value)
    with pytest.raises(UserError, match="two of the same name"):
        compare_encoders(CompareArguments(encoders=[encoders[0], encoders[0]], output=str(tmp_path / "compared.json")))


def test_shares_of_their_texts(tmp_path):
    def row(trial, seed, curve):
        return {"trial": trial, "seed": seed, "curve": curve, "held_out_loss": curve[-1][1]}

    rows = [
        row("paper", 0, [[1600, 8.0], [3200, 7.0]]),
        row("paper, repaired", 0, [[1600, 7.5], [3200, 6.9]]),
        row("tlm", 0, [[80, 8.0], [160, 6.95], [320, 6.8]]),
        row("lr 1e-3", 0, [[160, 7.2], [320, 7.1]]),
        row("tlm", 1, [[160, 6.0]]),
    ]
    arguments = TrainingSearchArguments(output=str(tmp_path / "found.json"), steps=100)
    _compare(rows, arguments)
    assert [row.get("share_to_match", "-") for row in rows] == [1.0, 1.0, 0.05, None, "-"]
    assert [row.get("share_to_match_repaired", "-") for row in rows] == [None, 1.0, 0.1, None, "-"]
    shown = {"recipe": "bert-1", "size": "laptop", "num_texts": 100}
    assert draw_curves({"trials": rows, "arguments": shown}, tmp_path / "curves.png").stat().st_size > 10_000


def test_bad_searches_are_refused(tmp_path, one_sentence):
    for change, sentence in (({"shares": [1.5]}, "--shares is"), ({"trials": ["luck"]}, "no trial 'luck'")):
        with pytest.raises(UserError, match=sentence) as caught:
            search_training(TrainingSearchArguments(output=str(tmp_path / "found.json"), **change))
        one_sentence(caught.value)


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


def test_paths_of_this_machine_stay_out_of_results(monkeypatch):
    monkeypatch.setenv("TLM_DATA", "/data/texts")
    there = ["/data/texts/wikipedia", "a=/data/texts/b", "new=scratch:/elsewhere/x", "https://host/y", "a=b", "/z/w"]
    assert portable(there) == ["$TLM_DATA/wikipedia", "a=$TLM_DATA/b", "new=scratch:x", "https://host/y", "a=b", "w"]
