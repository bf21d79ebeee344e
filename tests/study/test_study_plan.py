"""The plan of the study: what it names, what a change of it renames, what it refuses."""

import copy
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import ROOT, refusal

from tlm_hf.data.tasks import load_task
from tlm_hf.runs.atomic_files import write_json
from tlm_hf.study.execute import Record
from tlm_hf.study.plan import Planner, StudyRun
from tlm_hf.study.plan_file import PLAN_FILE, read_plan
from tlm_hf.study.ray_executor import SLOTS, makespan
from tlm_hf.study.study import START_SECONDS, StudyArguments, expected_seconds, show_plan

FULL = yaml.safe_load(PLAN_FILE.read_text())


@pytest.fixture
def expand(tmp_path):
    def run(size="smoke", validation=None, **changes):
        fields = copy.deepcopy(FULL[size])
        for name, value in changes.items():
            fields[name] = fields[name] | value if isinstance(value, dict) else value
        file = tmp_path / "plan.yaml"
        file.write_text(yaml.safe_dump({size: fields}, sort_keys=False))
        runs, waiting = Planner(read_plan(size, file), validation or {}).expand()
        return SimpleNamespace(runs=runs, waiting=waiting)

    return run


@pytest.fixture
def expand_all(expand):
    """The runs of a plan whose rates are chosen, all candidates being equally good."""

    def run(**changes):
        changes["rates"] = {"follow": 0, **changes.get("rates", {})}
        return expand(validation=dict.fromkeys(expand(**changes).runs, 0.5), **changes)

    return run


def finetunings(expansion, recipe="bert-1"):
    runs = [run for run in expansion.runs.values() if run.kind == "finetune" and run.settings["recipe"] == recipe]
    return [run for run in runs if run.settings["encoder"] is not None]


@pytest.mark.parametrize("size", list(FULL))
def test_every_need_of_a_run_is_named_before_it(size, expand):
    seen = set()
    for name, run in expand(size).runs.items():
        assert name == run.name
        assert seen.issuperset(need.name for need in run.needs)
        if run.kind == "finetune" and run.settings["encoder"] is None:
            assert [need.kind for need in run.needs] == ["tokenizer"]
        seen.add(name)


LONGER = {"longer": {"members": 2, "pretraining": {"max_steps": 40}}}
RATES = [{"learning_rate": rate} for rate in (1e-4, 3e-4, 1e-3)]


@pytest.fixture
def choose(tmp_path):
    """The rate that a plan of these candidates takes, and the rates tried, from accuracies by rate and seed."""

    def run(accuracies, seeds, follow=0):
        fields = copy.deepcopy(FULL["smoke"])
        fields["finetuning"]["bert-1"]["pretrained"] = RATES
        fields["rates"] = {"seeds": seeds, "follow": follow}
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"smoke": fields}, sort_keys=False))
        plan, validation = read_plan("smoke", tmp_path / "plan.yaml"), {}
        while True:  # each rate beyond the edge is named when those before it are done
            planner = Planner(plan, validation)
            before = len(validation)
            for option, runs in planner.candidates("bert-1", "docstrings", "pretrained").items():
                validation |= {run.name: accuracies[option.learning_rate][seed] for seed, run in enumerate(runs)}
            if len(validation) == before:
                tried = [option.learning_rate for option in planner.candidates("bert-1", "docstrings", "pretrained")]
                return planner.chosen("bert-1", "docstrings", "pretrained").learning_rate, tried

    return run


def test_the_mean_over_seeds_chooses_and_not_the_best_seed(choose):
    accuracies = {1e-4: (0.60, 0.60, 0.60), 3e-4: (0.79, 0.80, 0.81), 1e-3: (0.90, 0.20, 0.85)}
    assert choose(accuracies, 1)[0] == 1e-3
    assert choose(accuracies, 3)[0] == 3e-4


def test_a_best_rate_at_the_edge_is_followed(choose):
    rising = {1e-4: (0.5,), 3e-4: (0.6,), 1e-3: (0.7,), 3e-3: (0.8,), 9e-3: (0.75,)}
    assert choose(rising, 1, follow=3) == (3e-3, [1e-4, 3e-4, 1e-3, 3e-3, 9e-3])
    assert choose(rising, 1, follow=1) == (3e-3, [1e-4, 3e-4, 1e-3, 3e-3])
    falling = {1e-4: (0.7,), 3e-4: (0.6,), 1e-3: (0.5,), 3.3e-5: (0.65,)}
    assert choose(falling, 1, follow=3) == (1e-4, [1e-4, 3e-4, 1e-3, 3.3e-5])


def test_fine_tunings_wait_for_all_candidates(expand):
    first = expand()
    assert first.waiting > 0
    later = expand(validation=dict.fromkeys(first.runs, 0.5))
    assert later.waiting > 0  # the best is at the edge, so one more rate is tried
    last = expand(validation=dict.fromkeys(later.runs, 0.5))
    assert last.waiting == 0
    assert set(first.runs) < set(later.runs) < set(last.runs)


def test_a_changed_setting_renames_what_hangs_on_it_and_nothing_else(expand):
    before = expand()
    after = expand(finetuning={"bert-1": {**FULL["smoke"]["finetuning"]["bert-1"], "num_train_epochs": 3}})
    changed = [run for name, run in after.runs.items() if name not in before.runs]
    assert {(run.kind, run.settings["recipe"]) for run in changed} == {("finetune", "bert-1")}
    vocabulary = expand(tokenizer_texts=400)
    assert {vocabulary.runs[name].kind for name in set(vocabulary.runs) & set(before.runs)} == {"linear", "latency"}


def test_members_with_more_steps_leave_every_other_run_its_name(expand):
    before, after = (expand(committee={"variants": each}) for each in ({}, LONGER))
    assert set(before.runs) < set(after.runs)
    new = [run for name, run in after.runs.items() if name not in before.runs]
    pretrainings = [run.settings for run in new if run.kind == "pretrain"]
    assert [(settings["max_steps"], settings["seed"]) for settings in pretrainings] == [(40, 0), (40, 1)]


@pytest.mark.parametrize("size", ["laptop", "fair"])
def test_committed_records_are_those_of_the_plan(size, expand):
    """A plan that renames them would orphan hours of runs; fine-tunings are named once rates are chosen."""
    records = {path.name for path in (ROOT / "results" / "study" / size / "runs").iterdir()}
    others = {name for name in records if not name.startswith(("ag_news-", "dbpedia_14-", "fewrel-"))}
    assert others <= set(expand(size).runs)


@pytest.mark.skipif("TLM_DATA" not in os.environ, reason="TLM_DATA is not set: no real tasks to read")
def test_real_tasks_have_the_training_texts_that_the_plan_fair_asks_for():
    for task, options in read_plan("fair").tasks.items():
        counts = np.bincount(load_task(task, **options)["train"]["label"])
        assert set(counts) == {options["train_per_label"]}


def test_training_texts_are_drawn_anew_by_seed_and_test_texts_are_not(expand_all):
    def draws(**changes):
        tuned = [run.settings for run in expand_all(**changes).runs.values() if run.kind == "finetune"]
        return {(each["seed"], each["task_options"].get("train_seed")) for each in tuned}

    # For committees all four members learn from the first draw too.
    assert draws(redraw=True) == {(seed, draw) for seed in range(4) for draw in (0, seed)}
    assert draws() == {(seed, None) for seed in range(4)}


@pytest.mark.parametrize("section", ["corpus_size", "labels"])
def test_a_finding_may_have_fewer_seeds_than_the_rest(expand_all, section):
    def named(**changes):
        runs = expand_all(rates={"seeds": 1}, **changes).runs
        return {name: run.settings for name, run in runs.items() if run.kind in ("pretrain", "finetune")}

    every, fewer = named(), named(**{section: {"seeds": 1}})
    gone = [every[name] for name in set(every) - set(fewer)]
    assert set(fewer) < set(every)
    assert {each["seed"] for each in gone} == {1}


def test_the_deep_reference_may_have_fewer_encoders(expand_all):
    runs = expand_all(committee={"reference_seeds": 1}, rates={"seeds": 1}).runs.values()
    tuned = {(run.settings["recipe"], run.settings["seed"]) for run in runs if run.kind == "finetune"}
    assert {seed for recipe, seed in tuned if recipe == "bert-6"} == {0}
    assert {seed for recipe, seed in tuned if recipe == "bert-1"} == {0, 1, 2, 3}


def test_committees_of_one_encoder_are_further_fine_tunings_of_the_last_on_the_first_draw(expand_all):
    def tuned(**changes):
        return {run.name: run for run in finetunings(expand_all(redraw=True, **changes))}

    before, after = tuned(), tuned(committee={"of_one_encoder": 3})
    assert set(before) < set(after)
    new = [after[name].settings for name in set(after) - set(before)]
    assert sorted(each["seed"] for each in new) == [2, 3, 4, 5]  # behind those of two longer and of four plain members
    assert {each["task_options"]["train_seed"] for each in new} == {0}
    assert sorted({each["encoder"].split("-steps-")[1][0] for each in new}) == ["1", "3"]


def test_members_with_texts_of_their_own_share_the_encoders_of_finding_b_and_have_the_first_draw(expand_all):
    def named(**changes):
        return {run.name: run.settings for run in expand_all(redraw=True, **changes).runs.values()}

    before, after = named(), named(committee={"own_texts": 64})
    assert set(before) < set(after)
    new = [after[name] for name in set(after) - set(before)]
    pretrainings = [each for each in new if "num_texts" in each]  # those of bert-1 are encoders of b
    assert sorted((s["num_texts"], s["max_steps"], s.get("subset_seed", 0), s["seed"]) for s in pretrainings) == [
        (64, 64, 0, 0),
        (64, 64, 1, 1),
    ]
    tuned = [each for each in new if "num_texts" not in each]
    assert {each["task_options"]["train_seed"] for each in tuned} == {0}
    assert {each["encoder"].split("-texts-")[0] for each in tuned} == {"pretrain-bert-1-64"}


def test_every_model_has_its_own_rate_unless_the_plan_says_otherwise(expand):
    plans = {own: expand(rates={"variants": own}) for own in (True, False)}
    waits = {own: plan.waiting for own, plan in plans.items()}
    new = set(plans[True].runs) - set(plans[False].runs)
    tried = [plans[True].runs[name].settings for name in new]
    assert {each["encoder"].split("-steps-")[0] for each in tried} == {"pretrain-bert-1-500-texts-64"}
    assert {(each["seed"], int(each["encoder"].split("-")[-2])) for each in tried} == {(0, 0), (1, 1)}  # its encoders
    assert waits[True] < waits[False]  # both of its encoders are among the tries


@pytest.mark.parametrize(("redraw", "choices"), [(True, 2), (False, 1)])
def test_corpora_are_drawn_anew_by_seed_but_the_largest(expand, redraw, choices):
    runs = expand(redraw=redraw).runs.values()
    of_size = {(r.settings.get("num_texts"), r.settings.get("subset_seed", 0)) for r in runs if r.kind == "pretrain"}
    assert sum(texts == 64 for texts, _ in of_size) == choices
    assert (500, 1) not in of_size
    subsets = [run.settings for run in runs if run.kind == "subsets"]
    assert [each.get("seed", 0) for each in subsets] == list(range(choices))
    assert [each["tasks"]["docstrings"].get("train_seed") for each in subsets] == [0, 1] if redraw else [None]


def test_the_overlap_is_with_texts_without_the_marks_of_entities():
    """A third of a marked FewRel sentence would be pieces of [E1]: texts of low overlap were those without brackets."""
    planner = Planner(read_plan("fair"), {})
    assert planner.task_options("fewrel", 0)["entity_markers"] == "text"
    assert "entity_markers" not in planner.subsets(0).settings["tasks"]["fewrel"]


def test_encoders_of_the_overlap_have_their_own_options(expand):
    options = {"initialization": "counts", "mlm_probability": 0.2}

    def of_subsets(expansion):
        return [run.settings for run in expansion.runs.values() if "corpus_config" in run.settings]

    changed = of_subsets(expand(overlap={"pretraining": options}))
    assert changed == [each | options for each in of_subsets(expand())]
    assert len(changed) == 3 * 2  # high, random and low overlap with one task, two encoders each


def test_a_cluster_takes_as_long_as_its_longest_path_and_longer_when_nodes_die():
    seconds = {str(number): 3600.0 for number in range(4 * SLOTS)} | {"last": 100.0}
    after = {name: ["0"] if name == "last" else [] for name in seconds}
    assert makespan(seconds, after, 1) == 4 * 3600 + 100
    assert makespan(seconds, after, 4) == 3600 + 100
    assert makespan(seconds, after, 64) == 3600 + 100
    deadly = makespan(seconds, after, 4, seconds_to_death=3600.0)
    assert 3600 + 100 < deadly < makespan(seconds, after, 1)


def test_a_deep_encoder_is_expected_to_stop_when_shallow_ones_did():
    options = {"size": "laptop", "task": "ag_news", "num_train_epochs": 50, "task_options": {"train_per_label": 1000}}
    deep, shallow = ({"recipe": recipe, **options} for recipe in ("bert-6", "bert-1"))
    trained = [Record(str(n), "finetune", shallow, {"steps": n, "seconds": n / 10}) for n in (300, 500)]
    run, records = StudyRun("finetune", "deep", deep), {each.name: each for each in trained}
    unknown, known = (expected_seconds(run, each) - START_SECONDS for each in ({}, records))
    assert unknown / known == pytest.approx(50 * (16 * 1000 / 32) / 400)  # 16 labels, batches of 32
    assert expected_seconds(StudyRun("finetune", "shallow", shallow), records) == pytest.approx(START_SECONDS + 40)
    elsewhere = StudyRun("finetune", "other", {**shallow, "task": "fewrel"})  # a step is timed, their number is not
    most = 50 * 16 * 1000 / 32
    assert expected_seconds(elsewhere, records) == pytest.approx(START_SECONDS + most / 10)


def test_records_of_another_recipe_tell_when_one_that_is_asked_for_alone_stops(expand, tmp_path):
    asked = StudyArguments(size="smoke", results_dir=str(tmp_path), recipes=["bert-6"])
    unknown = show_plan(asked)["core_hours"]
    done = finetunings(expand())[0]
    write_json(tmp_path / "runs" / done.name / "config.json", {"kind": done.kind, **done.settings})
    found = {"kind": done.kind, "steps": 1, "seconds": 0.1, "validation": {"accuracy": 0.5}}
    write_json(tmp_path / "runs" / done.name / "results.json", found)
    assert show_plan(asked)["core_hours"] < unknown


TUNING = {"num_train_epochs": 1, "pretrained": [{"learning_rate": 1.0}], "scratch": [{"learning_rate": 1.0}]}


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("tasks", {"docstrings": {"train_per_lable": 3}}, "'train_per_lable'"),
        ("pretraining", {"bert-1": {"num_texts": 8, "max_steps": 2, "lerning_rate": 1.0}}, "'lerning_rate'"),
        ("pretraining", {"bert-1": {"num_texts": 8, "max_steps": 2, "corpus_config": "a"}}, "--corpus-config"),
        ("pretraining", {"bert-1": {"num_texts": 8}}, "pretraining.bert-1.max_steps must be"),
        ("overlap", {"num_texts": 301, "corpus_texts": 300}, "overlap.num_texts .* 300"),
        ("labels", {"seeds": 3}, "labels.seeds is above the 2 "),
        ("committee", {"of_one_encoder": 40}, "committee.of_one_encoder: "),
        ("committee", {"reference": "bert-9"}, "'bert-9'"),
        ("committee", {"members": {"bert-1": 0}}, "committee.members.bert-1: "),
        ("committee", {"members": {"bert-1": 40}}, "committee.members.bert-1: "),
        ("committee", {"longr": {"max_steps": 64, "members": 1}}, "committee.longr"),
        ("committee", {"variants": {"more": {"members": 1}}}, "committee.variants.more.pretraining: Field required"),
        ("finetuning", {"bert-1": TUNING | {"pretrained": [{"lr": 1.0}]}}, "pretrained.0.lr"),
        ("finetuning", {"bert-1": TUNING | {"pretrained": [{"learning_rate": "1e-3"}]}}, "'1e-3'.*write 1.0e-3"),
    ],
)
def test_a_slip_in_a_plan_is_named_before_anything_runs(expand, section, change, words):
    assert re.search(words, refusal(expand, **{section: change}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("smoke:\n  recipe_sice: smoke\n", "smoke.recipe_sice"),
        ("smoke:\n", "smoke: "),
        ("a: [1", "cannot be read"),
        ("other: {}\n", "no size 'smoke'"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path, text, words):
    file = tmp_path / "plan.yaml"
    if text is not None:
        file.write_text(text)
    assert re.search(words, refusal(read_plan, "smoke", file))
