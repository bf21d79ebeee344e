"""The plan of the study: what it names, what a change of it renames, what it refuses."""

import copy
import dataclasses
from pathlib import Path

import pytest
import yaml

from tlm_hf import recipes
from tlm_hf.errors import UserError
from tlm_hf.study.plan import Planner
from tlm_hf.study.plan_file import PLAN_FILE, SizePlan, read_plan

ROOT = Path(__file__).resolve().parents[2]
FULL = yaml.safe_load(PLAN_FILE.read_text())


def expand(size="smoke", validation=None, **changes):
    fields = copy.deepcopy(FULL[size])
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
    return Planner(SizePlan(**fields), validation or {}).expand()


def tuned(expansion):
    """Validation accuracies that prefer the last candidate, by name."""
    runs = [run for run in expansion.runs.values() if run.kind == "finetune"]
    return {run.name: 0.5 + index / 1000 for index, run in enumerate(runs)}


@pytest.mark.parametrize("size", list(FULL))
def test_every_need_of_a_run_is_named_before_it(size):
    seen = set()
    for name, run in expand(size).runs.items():
        assert name == run.name
        assert seen.issuperset(run.needs)
        seen.add(name)


def test_fine_tunings_wait_until_every_candidate_was_tried():
    first = expand()
    assert first.waiting > 0
    later = expand(validation=tuned(first))
    assert later.waiting == 0
    assert set(first.runs) <= set(later.runs)
    assert len(later.runs) >= len(first.runs)


def test_the_candidate_of_the_best_validation_accuracy_is_used():
    first = expand()
    candidates = [
        run for run in first.runs.values()
        if run.kind == "finetune" and run.settings["recipe"] == "bert-1" and run.settings["encoder"] is not None
    ]  # fmt: skip
    rates = {run.settings["learning_rate"]: run.name for run in candidates if run.settings["seed"] == 0}
    assert len(rates) == 2
    for best in rates:
        validation = dict.fromkeys(tuned(first), 0.5) | {rates[best]: 0.9}
        later = expand(validation=validation)
        others = [
            run.settings["learning_rate"] for run in later.runs.values()
            if run.kind == "finetune" and run.settings["recipe"] == "bert-1" and run.settings["encoder"] is not None
            and run.settings["seed"] > 0
        ]  # fmt: skip
        assert set(others) == {best}


def test_a_changed_setting_renames_what_hangs_on_it_and_nothing_else():
    before = expand()
    after = expand(finetuning={"bert-1": {**FULL["smoke"]["finetuning"]["bert-1"], "num_train_epochs": 3}})
    changed = set(after.runs) - set(before.runs)
    assert changed
    assert {(run.kind, run.settings["recipe"]) for name, run in after.runs.items() if name in changed} == {
        ("finetune", "bert-1")
    }
    vocabulary = expand(tokenizer={"num_texts": 400})
    kept = {vocabulary.runs[name].kind for name in set(vocabulary.runs) & set(before.runs)}
    assert kept == {"tfidf", "latency"}


def test_findings_share_an_encoder_of_the_same_settings():
    runs = expand().runs.values()
    shared = [
        run for run in runs if run.kind == "pretrain" and {"gap", "committee", "corpus_size"} <= set(run.findings)
    ]
    assert len(shared) == 2  # seeds 0 and 1 of bert-1 on the whole corpus


def test_members_with_more_steps_leave_every_other_run_its_name():
    before, after = (expand(committee={"longer": longer}) for longer in (None, {"max_steps": 7, "members": 2}))
    assert set(before.runs) < set(after.runs)
    new = [run for name, run in after.runs.items() if name not in before.runs]
    assert {run.settings["max_steps"] for run in new if run.kind == "pretrain"} == {7}
    assert [run.settings["seed"] for run in new if run.kind == "pretrain"] == [0, 1]
    assert all(run.findings == ("committee", "gap") for run in new)


def test_scratch_needs_no_encoder():
    for run in expand().runs.values():
        if run.kind == "finetune" and run.settings["encoder"] is None:
            assert all(need.startswith("tokenizer") for need in run.needs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("smoke:\n  recipe_sice: smoke\n", "'recipe_sice' in line 2"),
        ("smoke:\n  tasks: 3\n", "no field|no mapping"),
        ("a: [1", "no YAML"),
        ("other: {}\n", "no size 'smoke'"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_sentence(tmp_path, text, words):
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_plan("smoke", file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gap": {"recipes": ["bert-9"]}}, "'bert-9'"),
        ({"corpus_size": {"num_texts": [128, 64]}}, "rising order"),
        ({"finetuning": {"bert-1": {"num_train_epochs": 2, "pretrained": [{"lr": 1}], "scratch": [{}]}}}, "'lr' among"),
        (
            {
                "finetuning": {
                    "bert-1": {"num_train_epochs": 2, "pretrained": [{"learning_rate": "1e-3"}], "scratch": [{}]}
                }
            },
            "such as 1.0e-3",
        ),
        ({"finetuning": {"bert-1": {"num_train_epochs": 2, "pretrained": [], "scratch": [{}]}}}, "no candidates"),
    ],
)
def test_what_a_plan_names_must_be_there(tmp_path, change, words):
    fields = copy.deepcopy(FULL)
    for name, value in change.items():
        fields["smoke"][name] |= value
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(fields))
    with pytest.raises(UserError, match=words):
        read_plan("smoke", file)


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        (
            "tasks",
            {"docstrings": {"train_per_lable": 3}},
            "'train_per_lable' under the task 'docstrings'",
        ),
        ("tasks", {"docstrings": 3}, "no mapping under the task"),
        ("pretraining", {"bert-1": {"num_texts": 8, "max_steps": 2, "lerning_rate": 1.0}}, "'lerning_rate'"),
        ("pretraining", {"bert-1": {"num_texts": 8, "max_steps": 2, "corpus_config": "a"}}, "'corpus_config'"),
        ("overlap", {"num_texts": 301, "corpus_texts": 300}, "subsets of 301 texts .* 300"),
        ("pretraining", {"bert-1": {"num_texts": 8}}, "no 'max_steps' under 'pretraining' of bert-1"),
        ("pretraining", {"bert-1": {"num_texts": "8", "max_steps": 2}}, "num_texts '8'.*whole number"),
        ("gap", {"recipes": None}, "recipes None"),
        ("gap", {"recipes": []}, "nothing under 'gap.recipes'"),
        ("gap", {"finetuning_seeds": 0}, "finetuning_seeds 0"),
        ("gap", {"pretraining_seeds": 1.5}, "pretraining_seeds 1.5"),
        ("corpus_size", {"num_texts": []}, "num_texts \\[\\]"),
        ("committee", {"members": ["bert-1"]}, "members \\['bert-1'\\]"),
        ("committee", {"members": {}}, "nothing under 'committee.members'"),
        ("committee", {"members": {"bert-1": 0}}, "bert-1 0 under"),
        ("committee", {"longr": {"max_steps": 64, "members": 1}}, "'longr' under 'committee'"),
        ("pretraining", {"bert-1": None}, "no mapping under 'pretraining' of bert-1"),
        ("committee", {"longer": {"steps": 8, "members": 1}}, "no 'max_steps' under 'committee.longer'"),
        ("committee", {"longer": {"max_steps": 8, "members": 0}}, "members 0 under 'committee.longer'"),
        (
            "committee",
            {"longer": {"max_steps": 32, "members": 1}},
            "32 steps under 'committee.longer', not more than the 32",
        ),
        ("finetuning", {"bert-1": {"pretrained": [{}], "scratch": [{}]}}, "no 'num_train_epochs'"),
        (
            "finetuning",
            {"bert-1": {"num_train_epochs": 1, "pretrained": [3], "scratch": [{}]}},
            "no mapping under the",
        ),
    ],
)
def test_a_slip_in_a_plan_is_named_before_anything_runs(tmp_path, one_sentence, section, change, words):
    fields = copy.deepcopy(FULL)
    fields["smoke"][section] |= change
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(fields))
    with pytest.raises(UserError, match=words) as caught:
        read_plan("smoke", file)
    one_sentence(caught.value)


def test_a_section_that_lacks_a_field_and_a_size_without_any(tmp_path):
    fields = copy.deepcopy(FULL)
    del fields["smoke"]["committee"]["counts"]
    fields["laptop"] = None
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(fields))
    with pytest.raises(UserError, match="no 'counts' under 'committee'"):
        read_plan("smoke", file)
    with pytest.raises(UserError, match="no fields for the size 'laptop'"):
        read_plan("laptop", file)


def test_a_plan_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_plan("smoke", tmp_path / "none.yaml")


def laptop_records():
    """Names of committed records whose settings do not hang on a choice of rates."""
    records = {path.name for path in (ROOT / "results" / "study" / "laptop" / "runs").iterdir()}
    return {name for name in records if not name.startswith(("ag_news-", "dbpedia_14-", "fewrel-"))}


def test_a_changed_default_renames_trainings_and_nothing_else(monkeypatch):
    before = expand("laptop")
    assert laptop_records() <= set(before.runs), "committed records are no longer those of the plan"
    schedule = recipes.SCHEDULES["tlm"]
    monkeypatch.setitem(recipes.SCHEDULES, "tlm", dataclasses.replace(schedule, weight_decay=0.02))
    after = expand("laptop")
    assert len(after.runs) == len(before.runs)
    same = {name: before.runs[name] for name in set(before.runs) & set(after.runs)}
    assert same
    assert "pretrain" not in {run.kind for run in same.values()}
    assert all(run.settings["encoder"] is None for run in same.values() if run.kind == "finetune")


def test_a_changed_recipe_renames_its_own_runs_and_a_further_one_none(monkeypatch):
    before = set(expand("laptop").runs)
    deep = recipes.ARCHITECTURES["bert-6"]
    monkeypatch.setitem(recipes.ARCHITECTURES, "bert-2", dataclasses.replace(deep, name="bert-2", num_hidden_layers=2))
    assert set(expand("laptop").runs) == before
    assert "bert-2" in recipes.ARCHITECTURES
    monkeypatch.setitem(recipes.ARCHITECTURES, "bert-6", dataclasses.replace(deep, num_hidden_layers=5))
    after = set(expand("laptop").runs)
    assert {name for name in before - after if "bert-6" not in name} == set()
    assert {name for name in before & after if "bert-6" in name} == set()
    assert before & after >= {name for name in laptop_records() if "bert-6" not in name}
