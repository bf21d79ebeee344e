"""Staged folders. Oracles: the runs' files and results, huggingface_hub's reading of cards, the planted mistake."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, refusal
from helpers_commands import TINY_FINETUNING, contents, results_of, rows_of, shelf, succeed, write_csv
from helpers_family import OWNER, RELEASE, family, staged
from huggingface_hub import ModelCard, RepoCard

from tlm_hf.cards import CardFacts
from tlm_hf.errors import UserError
from tlm_hf.evaluation.classifier_facts import measure_classifier
from tlm_hf.hub.manifest import read_staged, training_seconds
from tlm_hf.hub.stage import stage, stage_model
from tlm_hf.runs.atomic_files import write_json

RUNS = {
    "tlm-bert1": "encoder", "tlm-bert1@seed-1": "encoder-1", "tlm-bert2": "deep", "tlm-conv": "conv",
    "tlm-bert1-words": "first", "tlm-committee-words": "together", "tlm-words-frozen": "frozen",
}  # fmt: skip


@pytest.fixture
def here(monkeypatch):
    monkeypatch.chdir(family())


def card_of(name):
    card_class = RepoCard if name == "tlm-demo" else ModelCard
    return card_class.load(staged() / OWNER / name / "README.md", ignore_metadata_errors=False)


def refusal_of(release, folder):
    (folder / "bad.yaml").write_text(yaml.safe_dump(release))
    said = refusal(stage, str(folder / "bad.yaml"), str(folder / "out"))
    assert contents(folder / "out") == {}
    return said


@pytest.mark.parametrize("name", RUNS)
def test_model_files_are_those_of_the_run(name):
    ours, theirs = contents(staged() / OWNER / name), contents(family() / RUNS[name])
    code = [name for name in theirs if name.endswith(".py") and "/" not in name]
    names = ["model.safetensors", "tokenizer.json", *code]
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}


@pytest.mark.parametrize("name", [*RUNS, "tlm-lora", "tlm-scratch"])
def test_numbers_in_cards_are_in_the_results(name):
    """Every decimal number of a card's text is one of its results file or manifest, rounded."""
    folder = staged() / OWNER / name
    text = (folder / "results.json").read_text() + (folder / "manifest.json").read_text()
    numbers = [float(found) for found in re.findall(r"-?\d+\.\d+(?:e-?\d+)?|-?\d+", text)]
    numbers += [100 * value for value in numbers]  # shown as percent
    body = re.sub(r"2507\.14871|[Aa]pache-2\.0|`[^`]*`|(transformers|torch|tlm-hf) [\d.]+", "", card_of(name).text)
    for shown in re.findall(r"\d+\.\d+", body):
        digits = len(shown.split(".")[1])
        assert any(abs(float(shown) - value) <= 0.5001 * 10**-digits for value in numbers), shown


def test_seconds_of_a_training_that_was_continued_after_its_last_step_are_unknown():
    again = {"speed": {}, "steps": 8, "seconds_since_start_or_continuation": 1.0}
    assert training_seconds(again | {"continued_from_step": 8}) is None
    assert training_seconds(again | {"continued_from_step": 0}) == 1.0


def test_front_matter():
    for folder in (staged() / OWNER).iterdir():
        card = card_of(folder.name)
        again = type(card)(f"---\n{card.data.to_yaml()}\n---\n{card.text}")
        assert again.data.to_dict() == card.data.to_dict()
        assert "ersion 0.1.0" in card.text, folder.name
        if folder.name != "tlm-demo":
            made = json.loads((folder / "manifest.json").read_text())["run"]
            assert made["command"] in card.text, folder.name
        assert "smoke size**" in card.text, folder.name
    frozen = card_of("tlm-words-frozen").data
    assert (frozen.base_model, frozen.base_model_relation) == ([f"{OWNER}/tlm-bert1-words"], "quantized")
    assert card_of("tlm-lora").data.library_name == "peft"
    assert card_of("tlm-bert1-words").data.to_dict()["widget"] == [{"text": "the cow and the boat"}]
    adapter = json.loads((staged() / OWNER / "tlm-lora" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == f"{OWNER}/tlm-bert1"


@pytest.mark.parametrize("kind", ["multi", "regression", "pairs"])
def test_models_of_every_kind_are_staged(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_csv(Path("task.csv"), rows_of(kind))
    options = {"multi": ("--problem-type", "multi"), "regression": ("--problem-type", "regression")}
    task = ("--task", "task.csv", "--text-column", "text", *options.get(kind, ("--text-pair-column", "other")))
    succeed("finetune", *task, "--model", shelf() / "encoder", *TINY_FINETUNING, "--output-dir", "one")
    succeed("committee", *task, "--members", "one", "--output-dir", "all", "--disable-tqdm")
    release = {"version": "0.1.0", "namespace": OWNER, "classifiers": {"tlm-one": {"run": "one"}}}
    release["committees"] = {"tlm-all": {"run": "all", "members": ["tlm-one"]}}
    Path("release.yaml").write_text(yaml.safe_dump(release))
    stage("release.yaml", "out")
    metric, name = {"multi": ("micro_f1", "micro F1"), "regression": ("r2", "R²")}.get(kind, ("accuracy", "accuracy"))
    for folder in ("tlm-one", "tlm-all"):
        card = ModelCard.load(f"out/{OWNER}/{folder}/README.md")
        results = json.loads(Path(f"out/{OWNER}/{folder}/results.json").read_text())
        value = results["test"][metric]
        assert results["evaluation"]["scores"][metric]["value"] == pytest.approx(value, abs=1e-4)
        assert f"test texts | {name} |" in card.text
        values = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert values[metric] == pytest.approx(value, abs=1e-3)
        assert ("reads pairs of texts" in card.text) == (kind == "pairs")


def test_staged_again_it_is_the_same(here, tmp_path):
    shutil.copytree(staged() / ".measured", tmp_path / "again" / ".measured")
    stage("release.yaml", str(tmp_path / "again"))
    assert contents(tmp_path / "again" / OWNER) == contents(staged() / OWNER)
    card = tmp_path / "again" / OWNER / "tlm-bert1" / "README.md"
    card.write_text(card.read_text() + "My words.\n")
    assert "staging again would lose that" in refusal(stage, "release.yaml", str(tmp_path / "again"))
    assert "My words." in card.read_text()


class TestOrigins:
    """The branch that a run read is found by its weights, and the text names it; the metadata has the repository."""

    @pytest.mark.parametrize(
        ("name", "words", "bases"),
        [
            ("tlm-bert1-words", f"fine-tuned from `{OWNER}/tlm-bert1` with", ["tlm-bert1"]),
            ("tlm-bert1-words@seed-1", f"fine-tuned from `{OWNER}/tlm-bert1` (branch `seed-1`) with", ["tlm-bert1"]),
            ("tlm-lora", f"language model `{OWNER}/tlm-bert1`.", ["tlm-bert1"]),
            ("tlm-scratch", "trained from scratch", None),
            (
                "tlm-committee-words@seed-1",
                f": `{OWNER}/tlm-bert1-words` (branch `seed-1`), `{OWNER}/tlm-bert2-words`;",
                ["tlm-bert1-words", "tlm-bert2-words"],
            ),
        ],
    )
    def test_card(self, name, words, bases):
        assert words in " ".join(card_of(name).text.split())
        assert card_of(name).data.base_model == (bases and [f"{OWNER}/{base}" for base in bases])

    @pytest.mark.parametrize(
        ("section", "name", "entry", "words"),
        [
            ("classifiers", "tlm-scratch", {"run": "scratch", "base": "tlm-bert1"}, "its run read nothing"),
            ("classifiers", "tlm-bert1-words", {"run": "first", "base": "tlm-bert2"}, "which is tlm-bert1;"),
            ("committees", "tlm-c", {"run": "together", "members": ["other/model"]}, "its run read first, second"),
            ("committees", "tlm-c", {"run": "together", "members": ["tlm-bert1-words@seed-1"]}, "not made from"),
            ("encoders", "tlm-bert1", {"run": "first"}, "is a finetune"),
            ("frozen", "tlm-frozen", {"run": "frozen", "base": "tlm-bert2-words"}, "which is tlm-bert1-words;"),
            ("adapters", "tlm-lora", {"run": "first", "base": "tlm-bert1"}, "no adapter"),
        ],
    )
    def test_runs_that_do_not_fit(self, here, tmp_path, section, name, entry, words):
        small = {key: RELEASE[key] for key in ("version", "namespace", "encoders", "classifiers")}
        small |= {section: small.get(section, {}) | {name: entry}}
        assert words in refusal_of(small, tmp_path)

    def test_an_adapter_of_a_branch_is_refused(self, here, tmp_path):
        """peft opens the main branch of what the adapter names."""
        shutil.copytree("adapted", tmp_path / "adapted")
        results = results_of(family() / "adapted")
        results["settings"]["weights"] = results_of(family() / "third")["settings"]["weights"]
        write_json(tmp_path / "adapted" / "results.json", results)
        release = {
            "version": "0.1.0",
            "namespace": OWNER,
            "encoders": {"tlm-bert1": {"run": "encoder", "revisions": {"seed-1": "encoder-1"}}},
            "adapters": {"tlm-lora": {"run": str(tmp_path / "adapted"), "base": "tlm-bert1"}},
        }
        assert "which is tlm-bert1@seed-1;" in refusal_of(release, tmp_path)


class TestSpace:
    def test_it_is_that_of_the_checkout(self):
        source, ours = contents(ROOT / "spaces" / "tlm-demo"), contents(staged() / OWNER / "tlm-demo")
        for name, digest in source.items():
            if "__pycache__" not in name and name != "README.md" and not name.startswith("demo/"):
                assert ours.pop(name) == digest
        assert {name.split("/")[0] for name in ours} == {"README.md", "demo", "manifest.json", "tlm_runtime.py"}


class TestOutputFolder:
    def test_what_others_put_there_is_never_deleted(self, here, tmp_path):
        copy = shutil.copytree(staged(), tmp_path / "copy")
        (copy / OWNER / "mine").mkdir()
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "thesis.txt").write_text("mine\n")
        (tmp_path / "file").write_text("mine\n")
        before = contents(tmp_path)
        for folder in (copy, tmp_path / "notes", tmp_path / "file"):
            refusal(stage, "release.yaml", str(folder))
        assert contents(tmp_path) == before

    def test_a_release_is_replaced_whole(self, here, tmp_path):
        release = {key: RELEASE[key] for key in ("version", "namespace")} | {"encoders": {"tlm-bert2": {"run": "deep"}}}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(release))
        output = shutil.copytree(staged(), tmp_path / "copy")
        shutil.rmtree(output / OWNER / "tlm-bert1")
        stage(str(tmp_path / "small.yaml"), str(output))
        assert [path.name for path in (output / OWNER).iterdir()] == ["tlm-bert2"]
        assert not (output / "verified.json").exists()
        with pytest.raises(UserError, match="no staged release"):
            read_staged(str(tmp_path))


def test_kept_numbers_are_only_those_of_the_same_scores(here, tmp_path):
    """Committees of the same members, and so of equal weights, may be joined in another way."""
    folder, kept, results = Path("together"), tmp_path / "kept.json", results_of(Path("together"))
    measured = measure_classifier(folder, results, "hash", kept)
    assert measure_classifier(folder, results, "hash", kept) == measured
    others = {**results, "test": {**results["test"], "accuracy": -1.0}}
    assert "run it again" in refusal(measure_classifier, folder, others, "hash", kept)


def test_a_plot_that_could_not_be_drawn_is_left_out(tmp_path):
    run = family() / "encoder"
    folder = stage_model(run, tmp_path / "tlm", "encoder", results_of(run), CardFacts("a book"), tmp_path / "plot.png")
    assert "plot.png" not in (folder / "README.md").read_text()
