"""Intervals of the study against scipy's bootstrap and t-test, and against known answers."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from tlm_hf.data.overlap_subsets import KINDS
from tlm_hf.study import estimates
from tlm_hf.study.estimates import Answers, accuracy, committees_right, difference, mean_difference
from tlm_hf.study.execute import Record
from tlm_hf.study.findings import SMALLEST, Committees, Findings, overlap_measures
from tlm_hf.study.plan import CORPUS_SIZE, GAP, LABELS, OVERLAP, Planner
from tlm_hf.study.plan_file import read_plan


@pytest.fixture
def answers():
    generator = np.random.default_rng(7)
    return generator.random((4, 900)) < 0.8, generator.random((4, 900)) < 0.7


def test_one_seed_is_scipys_bootstrap_over_items(answers):
    ours = answers[0][:1]
    found = accuracy(Answers(ours))
    theirs = stats.bootstrap(
        (ours[0],), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.value == pytest.approx(ours.mean())
    assert found.low == pytest.approx(theirs.low, abs=0.004)
    assert found.high == pytest.approx(theirs.high, abs=0.004)
    assert (found.t_low, found.t_high, found.runs) == (None, None, (1,))


def test_t_intervals_of_paired_and_of_other_runs_are_scipys(answers):
    ours, theirs = answers
    found = difference(Answers(ours), Answers(theirs), paired=True)
    expected = stats.ttest_rel(ours.mean(axis=1), theirs.mean(axis=1)).confidence_interval(0.95)
    assert (found.t_low, found.t_high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    found = difference(Answers(ours), Answers(theirs[:3]))
    expected = stats.ttest_ind(ours.mean(axis=1), theirs[:3].mean(axis=1), equal_var=False).confidence_interval(0.95)
    assert (found.t_low, found.t_high) == pytest.approx((expected.low, expected.high))
    assert found.runs == (4, 3)
    # One run, or alternatives, are held fixed at their mean.
    for fixed in (Answers(theirs[:1]), Answers(theirs, members=4)):
        expected = stats.ttest_1samp(ours.mean(axis=1) - fixed.right.mean(), 0).confidence_interval(0.95)
        found = difference(Answers(ours), fixed)
        assert (found.t_low, found.t_high) == pytest.approx((expected.low, expected.high))
        back = difference(fixed, Answers(ours))
        assert (back.t_low, back.t_high) == pytest.approx((-expected.high, -expected.low))
        assert difference(fixed, Answers(ours[:1])).t_low is None
    with pytest.raises(ValueError, match="same test items"):
        difference(Answers(ours), Answers(theirs[:, :5]))


def test_the_bootstrap_knows_of_the_runs():
    """Runs that differ by far more than their texts do: the interval of their mean is that of a bootstrap over runs."""
    generator = np.random.default_rng(8)
    ours = generator.random((6, 3000)) < np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.95])[:, None]
    means = ours.mean(axis=1)
    drawn = means[generator.integers(6, size=(20_000, 6))].mean(axis=1)
    found = accuracy(Answers(ours))
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    one = accuracy(Answers(ours, members=6))
    assert (one.low, one.high) == pytest.approx((0.5, 0.95), abs=0.02)
    assert one.t_low is None


def test_the_mean_over_tasks_takes_seeds_and_not_pairs_of_runs_as_independent():
    generator = np.random.default_rng(9)
    pairs = [
        (Answers(generator.random((3, n)) < 0.8, seed=n), Answers(generator.random((3, n)) < 0.7, seed=n))
        for n in (500, 900)
    ]
    by_seed = np.mean([ours.by_run - theirs.by_run for ours, theirs in pairs], axis=0)
    found = mean_difference(pairs)
    expected = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert (found.value, found.runs) == (pytest.approx(by_seed.mean()), (3, 3))
    assert (found.t_low, found.t_high) == pytest.approx((expected.low, expected.high))
    alone = difference(*pairs[0], paired=True)
    assert found.low < found.value < found.high
    assert found.high - found.low < alone.high - alone.low


def test_the_slope_is_that_of_numpys_polyfit(answers):
    generator = np.random.default_rng(5)
    scratch = answers[1].mean()
    pretrained = [(generator.random((4, 900)) < 0.6 + 0.03 * place).astype(float) for place in range(4)]
    points = [3.0, 4.0, 5.5, 6.0]
    expected = np.polyfit(points, [ours.mean() - scratch for ours in pretrained], 1)[0]
    found = estimates.slope(points, pretrained)
    assert found.value == pytest.approx(expected)
    by_seed = [np.polyfit(points, [ours[seed].mean() for ours in pretrained], 1)[0] for seed in range(4)]
    expected_t = stats.t.interval(0.95, 3, np.mean(by_seed), stats.sem(by_seed))
    assert (found.t_low, found.t_high) == pytest.approx(expected_t)


def test_the_accuracy_of_a_size_is_the_mean_over_all_committees_of_it():
    generator = np.random.default_rng(4)
    labels = generator.integers(4, size=500)
    logits = generator.normal(size=(500, 6, 4)) + 1.2 * np.eye(4)[labels][:, None]
    for count in (1, 3, 6):
        found = accuracy(Answers(committees_right(logits, labels, list(combinations(range(6), count))), members=6))
        expected = np.mean(
            [(softmax(logits[:, each], axis=-1).mean(axis=1).argmax(axis=-1) == labels).mean()
             for each in map(list, combinations(range(6), count))]
        )  # fmt: skip
        assert found.value == pytest.approx(expected)
        assert found.t_low is None


@pytest.fixture
def findings(tmp_path):
    """Findings of the laptop plan without records, which tests fill in; `tuned`: all candidates were equally good."""

    def make(tuned=False):
        plan = read_plan("laptop")
        validation = dict.fromkeys(Planner(plan, {}).expand()[0], 0.5) if tuned else {}
        return Findings(Planner(plan, validation), {}, tmp_path)

    return make


def test_a_mixed_committee_is_held_against_as_many_of_the_first_recipe(findings, monkeypatch):
    generator = np.random.default_rng(6)
    labels = generator.integers(4, size=400)

    def members(count, skill):
        return generator.normal(size=(400, count, 4)) + skill * np.eye(4)[labels][:, None], labels

    answers = {"bert-1": members(4, 1.0), "bert-1-wide": members(1, 2.0), "bert-1-conv2": members(1, 0.5)}
    made = findings(tuned=True)
    made.plan.committee.members.clear()  # frozen are the fields alone
    made.plan.committee.members.update(dict.fromkeys(answers, 1))
    monkeypatch.setattr(made, "logits", lambda runs, split="test": answers.get(next(iter(runs)).settings.get("recipe")))
    points = {(point.finding, point.model, point.x): point for point in made.planner.points("fewrel")}
    mixed = [row for row in made.committee("fewrel", points) if row.model.startswith("mixed")]
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


def test_overlaps_are_compared_over_the_seeds_that_both_have(findings):
    generator = np.random.default_rng(11)
    seeds = {"high": (0, 2), "random": (0, 1, 2), "low": (0, 1)}
    right = {kind: {s: generator.random(300) < 0.7 for s in found} for kind, found in seeds.items()}
    made = findings()
    measures = {task: {kind: {"train": {"jensen_shannon_bits": 0.1}} for kind in seeds} for task in made.plan.tasks}
    name = made.planner.subsets(0).name
    made.records = {name: Record(name, "subsets", {}, {"measures": measures})}
    by_task = {(OVERLAP, f"bert-1, {kind} overlap", kind): found for kind, found in right.items()} | {
        (GAP, "bert-1", "scratch"): {}
    }
    rows = {(row.task, row.x): row for row in made.overlap(dict.fromkeys(made.plan.tasks, by_task))}
    for x, other, common in (("high - low", "low", [0]), ("high - random", "random", [0, 2])):
        expected = np.mean([right["high"][s].mean() - right[other][s].mean() for s in common])
        for task in ("fewrel", "mean of the tasks"):
            assert rows[task, x].estimate == pytest.approx(expected, abs=1e-6)
            assert rows[task, x].runs == [len(common)] * 2


def test_corpus_sizes_are_compared_over_the_seeds_that_all_have(findings):
    generator, seeds = np.random.default_rng(13), {1000: (0, 1, 2), 2000: (2, 0), 4000: (), 16_000: (0, 2, 3)}
    right = {size: {s: generator.random(300) < 0.7 for s in found} for size, found in seeds.items()}
    scratch = {s: generator.random(300) < 0.5 for s in range(4)}
    points = {(CORPUS_SIZE, "bert-1, equal steps", size): found for size, found in right.items()}
    rows = list(findings().corpus_size("fewrel", {**points, (GAP, "bert-1", "scratch"): scratch}))
    gaps = {x: np.mean([found[0], found[2]]) - np.mean([*scratch.values()]) for x, found in right.items() if found}
    slope = np.polyfit(np.log2([*gaps]), [*gaps.values()], 1)[0]
    assert {row.x: row.estimate for row in rows} == pytest.approx(gaps | {"slope": slope}, abs=1e-6)
    assert [row.runs for row in rows] == [[2, 4]] * 3 + [[2]]


def test_overlap_is_the_mean_over_the_choices_of_subsets():
    planner, bits = Planner(read_plan("fair"), {}), {0: 0.125, 2: 0.25}
    records = {}
    for seed, value in bits.items():
        measures = {task: {key: {"train": {"bits": value}} for key in KINDS} for task in planner.plan.tasks}
        name = planner.subsets(seed).name
        records[name] = Record(name, "subsets", {}, {"measures": measures})
    assert overlap_measures(planner, records)["fewrel"]["low"] == {"bits": 0.1875}
    assert overlap_measures(planner, {}) == {}


@pytest.mark.parametrize(("draws", "is_paired"), [((0, 2), True), ((0, 1), False)])
def test_few_labels_are_paired_where_both_sides_have_the_same_draws(tmp_path, monkeypatch, draws, is_paired):
    generator = np.random.default_rng(12)
    ours, linear = ({seed: generator.random(300) < 0.7 for seed in seeds} for seeds in ((0, 2), draws))
    made = Findings(Planner(read_plan("fair"), {}), {}, tmp_path)

    def logits(runs):
        found = linear.get(next(iter(runs)).settings["task_options"]["train_seed"])
        return None if found is None else (np.eye(2)[found.astype(int)][:, None], np.ones(300, dtype=int))

    monkeypatch.setattr(made, "logits", logits)
    rows = list(made.labels("ag_news", {(LABELS, "bert-1", 8): ours, (LABELS, "scratch", 8): {}}))
    (row,) = [each for each in rows if each.measure.startswith("difference")]
    sides = [[each.mean() for each in side.values()] for side in (ours, linear)]
    test = stats.ttest_rel(*sides) if is_paired else stats.ttest_ind(*sides, equal_var=False)
    assert (row.t_low, row.t_high) == pytest.approx(test.confidence_interval(0.95), abs=1e-6)


def test_not_worse_holds_from_a_number_on(findings, monkeypatch):
    """Better than the deep encoder by so many points of a hundred items, for one to five members."""
    made = findings()
    answers = {count: Answers(np.arange(100)[None] < right, 1) for count, right in enumerate((40, 60, 40, 60, 70), 1)}
    shallow = [Committees("plain", made.plan.shallow, answers, dict.fromkeys(answers, 1))]
    monkeypatch.setattr(made, "_committees", lambda points: shallow)
    points = {(point.finding, point.model, point.x): point for point in made.planner.points("fewrel")}
    for encoders, sizes in ((2, [4]), (1, [])):  # a single deep encoder may be an unlucky one
        monkeypatch.setattr(made, "right", lambda _, count=encoders: dict.fromkeys(range(count), np.arange(100) < 50))
        assert [row.x for row in made.committee("fewrel", points) if row.measure == SMALLEST] == sizes


def test_a_temperature_is_of_validation_and_the_calibration_error_of_test(findings, monkeypatch):
    """Of the first group with so many members. Oracle: the best temperature of a grid, errors summed by bin."""
    generator, made, answers, logs = np.random.default_rng(15), findings(), {}, {}
    for split, noise in (("validation", 5), ("test", 3)):
        labels = generator.integers(4, size=600)
        right = 2 * np.eye(4)[labels][:, None]
        answers[split] = {n: (right + generator.normal(size=(600, n, 4), scale=noise), labels) for n in (1, 3)}
        logs[split] = np.log(softmax(answers[split][3][0][:, :2], axis=-1).mean(axis=1))
    monkeypatch.setattr(made, "logits", lambda group, split: answers[split].get(group))
    known = np.eye(4, dtype=bool)[answers["validation"][3][1]]
    best = max(np.geomspace(1, 9, 2001), key=lambda t: np.log(softmax(logs["validation"] / t, axis=-1)[known]).sum())
    probabilities = softmax(logs["test"] / best, axis=-1)
    sure, is_right = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels
    expected = np.abs(np.bincount((15 * sure).astype(int), sure - is_right)).sum() / 600
    assert made._calibration([0, 1, 3], 2) == pytest.approx(expected, abs=1e-4)
