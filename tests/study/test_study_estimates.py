"""Intervals of the study against scipy's bootstrap and t-test, and against known answers."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from tlm_hf.models.combination_committee import combine
from tlm_hf.study.estimates import (
    committees_right,
    estimate,
    first_not_worse,
    mean_difference,
    one_of_each,
    slope,
    subsets,
)
from tlm_hf.study.execute import Record
from tlm_hf.study.findings import WITHOUT_COLLAPSED, Findings
from tlm_hf.study.plan import Planner
from tlm_hf.study.plan_file import ARMS, read_plan


@pytest.fixture
def answers():
    generator = np.random.default_rng(7)
    return (generator.random((4, 900)) < 0.8).astype(float), (generator.random((4, 900)) < 0.7).astype(float)


def test_one_seed_is_scipys_bootstrap_over_items(answers):
    ours = answers[0][:1]
    found = estimate(ours)
    theirs = stats.bootstrap(
        (ours[0],), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.value == pytest.approx(ours.mean())
    assert found.low == pytest.approx(theirs.low, abs=0.004)
    assert found.high == pytest.approx(theirs.high, abs=0.004)
    assert (found.t_low, found.t_high, found.runs) == (None, None, (1,))


def test_the_t_interval_of_paired_seeds_is_scipys(answers):
    ours, theirs = answers
    found = estimate(ours, theirs, paired=True)
    expected = stats.ttest_rel(ours.mean(axis=1), theirs.mean(axis=1)).confidence_interval(0.95)
    assert (found.t_low, found.t_high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(ours.mean() - theirs.mean())


def test_the_t_interval_of_sides_with_runs_of_their_own_is_scipys(answers):
    ours, theirs = answers[0], answers[1][:3]
    found = estimate(ours, theirs)
    expected = stats.ttest_ind(ours.mean(axis=1), theirs.mean(axis=1), equal_var=False).confidence_interval(0.95)
    assert (found.t_low, found.t_high) == pytest.approx((expected.low, expected.high))
    assert found.runs == (4, 3)
    assert estimate(ours, theirs[:1]).t_low is None


def test_the_bootstrap_knows_of_the_runs():
    """Runs that differ by far more than their texts do: the interval of their mean is that of a bootstrap over runs."""
    generator = np.random.default_rng(8)
    ours = (generator.random((6, 3000)) < np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.95])[:, None]).astype(float)
    means = ours.mean(axis=1)
    drawn = means[generator.integers(6, size=(20_000, 6))].mean(axis=1)
    found = estimate(ours)
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    one = estimate(ours, single=True)
    assert (one.low, one.high) == pytest.approx((0.5, 0.95), abs=0.02)
    assert one.t_low is None


def test_the_mean_over_tasks_takes_every_pair_of_runs():
    generator = np.random.default_rng(9)
    pairs = [((generator.random((3, n)) < 0.8).astype(float), (generator.random((3, n)) < 0.7).astype(float))
             for n in (500, 900)]  # fmt: skip
    by_run = np.concatenate([ours.mean(axis=1) - theirs.mean(axis=1) for ours, theirs in pairs])
    found = mean_difference(pairs)
    expected = stats.ttest_1samp(by_run, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(by_run.mean())
    assert (found.t_low, found.t_high) == pytest.approx((expected.low, expected.high))
    alone = estimate(*pairs[0], paired=True)
    assert found.low < found.value < found.high
    assert found.high - found.low < alone.high - alone.low


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        ours, theirs = generator.random((1, 400)) < 0.75, generator.random((1, 400)) < 0.65
        found = estimate(ours.astype(float), theirs.astype(float))
        covered += found.low <= 0.1 <= found.high
    assert 0.89 <= covered / 150 <= 0.99


def test_the_slope_is_that_of_numpys_polyfit(answers):
    generator = np.random.default_rng(5)
    scratch = answers[1].mean()
    pretrained = [(generator.random((4, 900)) < 0.6 + 0.03 * place).astype(float) for place in range(4)]
    points = [3.0, 4.0, 5.5, 6.0]
    expected = np.polyfit(points, [ours.mean() - scratch for ours in pretrained], 1)[0]
    found = slope(points, pretrained)
    assert found.value == pytest.approx(expected)
    by_seed = [np.polyfit(points, [ours[seed].mean() for ours in pretrained], 1)[0] for seed in range(4)]
    expected_t = stats.t.interval(0.95, 3, np.mean(by_seed), stats.sem(by_seed))
    assert (found.t_low, found.t_high) == pytest.approx(expected_t)


def test_a_committee_decides_as_the_model_that_is_released():
    import torch

    generator = np.random.default_rng(2)
    logits = generator.normal(size=(300, 5, 6)) * 2
    labels = generator.integers(6, size=300)
    order = [3, 0, 4]
    released = combine(torch.from_numpy(logits[:, order]), "probabilities").numpy().argmax(axis=-1)
    assert (committees_right(logits, labels, [order])[0] == (released == labels)).all()


def test_the_accuracy_of_a_size_is_the_mean_over_all_committees_of_it():
    generator = np.random.default_rng(4)
    labels = generator.integers(4, size=500)
    logits = generator.normal(size=(500, 6, 4)) + 1.2 * np.eye(4)[labels][:, None]
    for count in (1, 3, 6):
        found = estimate(committees_right(logits, labels, subsets(6, count)), single=True)
        expected = np.mean(
            [(softmax(logits[:, each], axis=-1).mean(axis=1).argmax(axis=-1) == labels).mean()
             for each in map(list, combinations(range(6), count))]
        )  # fmt: skip
        assert found.value == pytest.approx(expected)
        assert found.t_low is None


def test_of_too_many_committees_some_are_drawn():
    assert len(subsets(10, 5)) == 252
    many = subsets(40, 5)
    assert len(many) == len(set(many)) == 300
    assert one_of_each([2, 1, 2]) == [(0, 2, 3), (0, 2, 4), (1, 2, 3), (1, 2, 4)]
    drawn = one_of_each([30, 30])
    assert len(set(drawn)) == 300
    assert all(0 <= first < 30 <= second < 60 for first, second in drawn)


@pytest.fixture
def findings(tmp_path):
    """Findings of the laptop plan without records, which tests fill in."""

    def make(validation=None, records=None):
        return Findings(Planner(read_plan("laptop"), validation or {}), records or {}, tmp_path)

    return make


def test_a_mixed_committee_is_held_against_as_many_of_the_first_recipe(findings, monkeypatch):
    generator = np.random.default_rng(6)
    labels = generator.integers(4, size=400)

    def members(count, skill):
        return generator.normal(size=(400, count, 4)) + skill * np.eye(4)[labels][:, None], labels

    answers = {"bert-1": members(4, 1.0), "bert-1-wide": members(1, 2.0), "bert-1-conv2": members(1, 0.5)}
    made = findings()
    monkeypatch.setattr(made, "members", lambda task: answers if task == "fewrel" else {})
    rows = made.rows()
    mixed = [row for row in rows if row.model.startswith("mixed")]
    (row,) = [row for row in mixed if row.measure == "difference from as many bert-1"]
    assert (row.task, row.x) == ("fewrel", 3)
    assert row.model == "mixed: one each of bert-1, bert-1-wide, bert-1-conv2"

    def right(logits):
        return (softmax(logits, axis=-1).mean(axis=1).argmax(axis=-1) == labels).mean()

    single = [answers[recipe][0][:, 0] for recipe in ("bert-1-wide", "bert-1-conv2")]
    plain = answers["bert-1"][0]
    mixed = [right(np.stack([plain[:, one], *single], axis=1)) for one in range(4)]
    alike = [right(plain[:, list(chosen)]) for chosen in combinations(range(4), 3)]
    assert row.estimate == pytest.approx(np.mean(mixed) - np.mean(alike), abs=1e-6)
    assert row.low < row.estimate < row.high


def test_the_gap_without_runs_that_did_not_learn_is_beside_the_one_with_them(findings, monkeypatch):
    planner = findings().planner
    accuracies = {
        run.name: 0.8 - place / 100
        for arm in ARMS
        for place, (run,) in enumerate(planner.candidates("bert-6", "ag_news", arm).values())
    }
    runs = findings(accuracies).arms("bert-6", "ag_news")
    names = {arm: [runs[arm][seed][0].name for seed in range(3)] for arm in ARMS}
    accuracies |= {names["pretrained"][1]: 0.83, names["pretrained"][2]: 0.61}  # 0.19 below the one that chose the rate
    accuracies |= {names["scratch"][1]: 0.78, names["scratch"][2]: 0.25}
    generator = np.random.default_rng(3)
    right = {name: (generator.random(500) < accuracies[name]).astype(float) for arm in ARMS for name in names[arm]}

    def gaps():
        made = findings(accuracies)
        monkeypatch.setattr(made, "correct", lambda run: right.get(run.name))
        return {row.x: row for row in made.gap() if row.measure == "gap"}

    rows = gaps()
    ours = np.mean([right[name] for name in names["pretrained"]])
    for x, count in (("gap", 3), (WITHOUT_COLLAPSED, 2)):
        expected = ours - np.mean([right[name] for name in names["scratch"][:count]])
        assert rows[x].estimate == pytest.approx(expected, abs=1e-6)
        assert rows[x].runs == [3, count]
    assert rows[WITHOUT_COLLAPSED].collapsed == [names["scratch"][2]]
    accuracies[names["scratch"][2]] = 0.7
    assert WITHOUT_COLLAPSED not in gaps()


def test_overlaps_are_compared_over_the_seeds_that_both_have(findings, monkeypatch):
    generator = np.random.default_rng(11)
    seeds = {"high": (0, 2), "random": (0, 1, 2), "low": (0, 1)}
    right = {kind: {s: (generator.random(300) < 0.7).astype(float) for s in found} for kind, found in seeds.items()}
    made = findings()
    measures = {task: {kind: {"train": {"jensen_shannon_bits": 0.1}} for kind in seeds} for task in made.plan.tasks}
    name = made.planner.subsets.name
    made.records = {name: Record(name, "subsets", {}, {"measures": measures})}
    monkeypatch.setattr(made, "scratch", lambda recipe, task: {0: right["low"][0]} if task == "fewrel" else {})
    monkeypatch.setattr(
        made,
        "_of_encoders",
        lambda recipe, task, runs: next(rows for kind, rows in right.items() if f"-{kind}-" in runs[0].name),
    )
    rows = {row.x: row for row in made.overlap() if row.measure == "difference"}
    for name, other, common in (("high - low", "low", [0]), ("high - random", "random", [0, 2])):
        expected = np.mean([(right["high"][seed] - right[other][seed]).mean() for seed in common])
        assert rows[name].estimate == pytest.approx(expected, abs=1e-6)
        assert rows[name].runs == [len(common)] * 2


def test_not_worse_holds_from_a_number_on():
    lows = [-0.02, 0.005, -0.03, -0.005, 0.001]
    assert first_not_worse(lows, 0.01) == 4
    assert first_not_worse(lows, 0.0) == 5
    assert first_not_worse(lows[:3], 0.0) is None


def test_sides_of_other_items_are_refused(answers):
    with pytest.raises(ValueError, match="same test items"):
        estimate(answers[0], answers[1][:, :5])
