"""Cards of branches, classifiers from scratch and the Space: what they say, and that their snippets run where they say.

Oracles: what the runs record, the local Hub, and a fresh process that cannot import the package.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import BLOCKER
from helpers_commands import results_of
from helpers_family import OWNER, SENTENCE, family, mark_verified, staged
from helpers_release import client, local_hub
from huggingface_hub import ModelCard

from tlm_hf.errors import UserError
from tlm_hf.hub.manifest import describe_files, tree_hash
from tlm_hf.hub.model_folder import is_smoke
from tlm_hf.hub.push import push
from tlm_hf.hub.release_entries import SpaceEntry
from tlm_hf.hub.release_file import read_release
from tlm_hf.hub.release_reproduce import reproduce
from tlm_hf.hub.space_folder import stage_space
from tlm_hf.hub.stage import stage
from tlm_hf.hub.verify import verify
from tlm_hf.runs.atomic_files import write_json

ROOT = Path(__file__).resolve().parents[2]
RELEASE = {
    "version": "0.1.0",
    "namespace": OWNER,
    "encoders": {
        "tlm-bert1": {"run": "encoder", "revisions": {"seed-1": "encoder-1"}},
        "tlm-conv": {"run": "conv", "revisions": {"again": "conv"}},
    },
    "adapters": {
        "tlm-lora": {"run": "adapted", "base": "tlm-bert1", "example": SENTENCE, "revisions": {"again": "adapted"}}
    },
    "classifiers": {"tlm-scratch": {"run": "scratch", "example": SENTENCE}},
}
BRANCHES = {"tlm-bert1": "seed-1", "tlm-conv": "again", "tlm-lora": "again"}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The release above, staged; it counts as verified, without the minute of it."""
    folder = tmp_path_factory.mktemp("cards")
    (folder / "release.yaml").write_text(yaml.safe_dump(RELEASE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(family())
        stage(str(folder / "release.yaml"), str(folder / "staged"))
    mark_verified(folder / "staged")
    return folder / "staged"


STRANGER = """
import json, pathlib, re
from unittest import mock
import huggingface_hub, peft, transformers

found = {}
for name, branch in json.loads(sys.argv[1]).items():
    folder = pathlib.Path(huggingface_hub.snapshot_download("tiny-lab/" + name, revision=branch))
    (code,) = re.findall(r"^```python\\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    there = {}
    exec(compile(code, name, "exec"), there)
    if name == "tlm-bert1":
        found["sum"] = there["model"].embeddings.word_embeddings.weight.double().sum().item()
    found[name] = "ran"
try:  # why the card of an adapter's branch opens base and adapter one by one
    transformers.AutoModelForSequenceClassification.from_pretrained("tiny-lab/tlm-lora", revision="again")
except OSError as error:
    found["by the auto class"] = "tlm-bert1" in str(error)
print(json.dumps(found))
"""


def test_snippets_of_branches_run_on_the_hub_as_they_stand(output, tmp_path):
    with local_hub() as hub:
        push(str(output), hub=client(hub), public=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON", "TLM_"))}
        environment = kept | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", BLOCKER + STRANGER, json.dumps(BRANCHES)], cwd=tmp_path, env=environment, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    from safetensors.torch import load_file

    weights = load_file(family() / "encoder-1" / "model.safetensors")
    assert found.pop("sum") == pytest.approx(weights["bert.embeddings.word_embeddings.weight"].double().sum().item())
    assert found.pop("by the auto class")
    assert found == dict.fromkeys(BRANCHES, "ran")


@pytest.mark.parametrize(
    ("name", "branch", "file", "change"),
    [
        ("tlm-bert1", "seed-1", "tokenizer_config.json", {"mask_token": "[NONE]"}),
        pytest.param("tlm-lora", "again", "adapter_config.json", {"r": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_broken_branch_is_not_verified(output, tmp_path, one_sentence, name, branch, file, change):
    """What only the snippet comes upon, in the branch alone: main is as it was."""
    shutil.copytree(output, tmp_path / "release")
    folder = tmp_path / "release" / OWNER / f"{name}@{branch}"
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": describe_files(folder)}))
    release = json.loads((tmp_path / "release" / "release.json").read_text())
    kept = [each for each in release["repositories"] if each["name"] in (name, "tlm-bert1")]
    kept[-1]["tree"][f"{OWNER}/{name}@{branch}"] = tree_hash(folder)
    (tmp_path / "release" / "release.json").write_text(json.dumps(release | {"repositories": kept}))
    with pytest.raises(UserError) as refusal:
        verify(str(tmp_path / "release"))
    assert f"{name}@{branch} does not open" in one_sentence(refusal.value)


class TestScratch:
    def test_its_card_names_no_base(self, output):
        assert results_of(family() / "scratch")["settings"]["weights"] == "new"
        card = ModelCard.load(output / OWNER / "tlm-scratch" / "README.md")
        assert card.data.base_model is None
        assert "trained from scratch" in card.text
        assert "fine-tuned" not in card.text

    @pytest.mark.slow
    def test_it_is_made_again_from_its_own_architecture(self, output, monkeypatch):
        monkeypatch.chdir(family())
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        found = reproduce(str(output / OWNER / "tlm-scratch"))
        assert found["identical"], found


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("run: scratch\n", "run: scratch\n    base: tlm-bert1\n", "tlm-scratch was trained from scratch"),
        ("run: scratch\n", "run: scratch\n    base: other/model\n", "take its base out"),
        ("base: tlm-bert1\n", "base: other/model\n", "its run names encoder"),
        (
            "classifiers:\n",
            "committees:\n  tlm-committee:\n    run: together\n    members: [other/model]\nclassifiers:\n",
            "its run names first, second",
        ),
    ],
)
def test_origins_that_are_not_those_of_the_run(tmp_path, monkeypatch, one_sentence, old, new, words):
    monkeypatch.chdir(family())
    text = yaml.safe_dump(RELEASE)
    assert old in text
    (tmp_path / "bad.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as refusal:
        stage(str(tmp_path / "bad.yaml"), str(tmp_path / "out"))
    assert words in one_sentence(refusal.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == []  # before any work


def test_origins_elsewhere_that_the_run_names(tmp_path):
    """A run that read a model of the Hub has its name in its results."""
    from tlm_hf.hub.release_entries import AdapterEntry, CommitteeEntry
    from tlm_hf.hub.release_links import check_links

    results = {"model": "other/model", "settings": {"weights": "other/model"}, "members": ["other/model"]}
    check_links(AdapterEntry("tlm-a", tmp_path, base="other/model"), results)
    check_links(CommitteeEntry("tlm-c", tmp_path, members=["other/model"]), results)


def card_of(name):
    return ModelCard.load(staged() / OWNER / name / "README.md", ignore_metadata_errors=True)


class TestOrigins:
    """The branch that a run read is found by its weights, and stands in the text; the metadata has the repository."""

    @pytest.mark.parametrize(
        ("name", "words", "bases"),
        [
            ("tlm-bert1-words", f"fine-tuned from `{OWNER}/tlm-bert1` with", ["tlm-bert1"]),
            ("tlm-bert1-words@seed-1", f"fine-tuned from `{OWNER}/tlm-bert1` (branch `seed-1`) with", ["tlm-bert1"]),
            ("tlm-bert1-words-lora", f"language model `{OWNER}/tlm-bert1`.", ["tlm-bert1"]),
            (
                "tlm-committee-words",
                f"own: `{OWNER}/tlm-bert1-words`, `{OWNER}/tlm-bert2-words`;",
                ["tlm-bert1-words", "tlm-bert2-words"],
            ),
            (
                "tlm-committee-words@seed-1",
                f"own: `{OWNER}/tlm-bert1-words` (branch `seed-1`), `{OWNER}/tlm-bert2-words`;",
                ["tlm-bert1-words", "tlm-bert2-words"],
            ),
        ],
    )
    def test_card(self, name, words, bases):
        card = card_of(name)
        assert words in " ".join(card.text.split())
        assert card.data.base_model == [f"{OWNER}/{base}" for base in bases]

    def test_an_adapter_of_a_branch_is_refused(self, tmp_path, monkeypatch, one_sentence):
        """peft opens the main branch of what the adapter names."""
        shutil.copytree(family() / "adapted", tmp_path / "adapted")
        results = results_of(family() / "adapted")
        results["settings"]["weights"] = results_of(family() / "third")["settings"]["weights"]
        write_json(tmp_path / "adapted" / "results.json", results)
        release = {key: RELEASE[key] for key in ("version", "namespace", "encoders")}
        release["adapters"] = {"tlm-lora": {"run": str(tmp_path / "adapted"), "base": "tlm-bert1"}}
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump(release))
        monkeypatch.chdir(family())
        with pytest.raises(UserError) as refusal:
            stage(str(tmp_path / "bad.yaml"), str(tmp_path / "out"))
        assert "release tlm-bert1@seed-1 as a repository of its own" in one_sentence(refusal.value)


def test_every_card_says_the_version_and_that_smoke_means_little():
    for folder in (staged() / OWNER).iterdir():
        text = (folder / "README.md").read_text()
        assert "ersion 0.1.0" in text, folder.name
        assert ("smoke size**" in text) == (folder.name != "tlm-texts"), folder.name


@pytest.mark.parametrize(
    ("settings", "known", "width", "expected"),
    [
        ({"size": "laptop"}, {}, 64, False),
        ({"size": "smoke"}, {}, 128, True),
        ({"weights": "a"}, {"a": False}, 64, False),
        ({"weights": ["a", "b"]}, {"b": True}, 128, True),
        ({"weights": "new"}, {"a": False}, 64, True),
        ({"weights": "new"}, {"a": True}, 128, False),
    ],
)
def test_what_counts_as_smoke(tmp_path, settings, known, width, expected):
    write_json(tmp_path / "config.json", {"hidden_size": width})
    assert is_smoke(tmp_path, {"settings": settings}, known) == expected


class TestSpace:
    def test_its_card_says_what_the_demonstration_has(self):
        text = card_of("tlm-demo").text
        assert "a soft committee of 2 encoders of 1 or 2 layers, beside one encoder of 2 layers." in text
        assert "Fill the mask: one layer, two layers, and" in text
        assert "Findings: empty here" in text
        assert "pip install -r requirements.txt" in text
        assert "outputs/" not in text

    def test_another_demonstration(self, tmp_path, monkeypatch):
        """Six layers, a study, and a committee of other people, of whose members nothing is at hand."""
        monkeypatch.chdir(family())
        release = read_release("release.yaml")
        (entry,) = (each for each in release.entries if isinstance(each, SpaceEntry))
        shutil.copytree(entry.demo, tmp_path / "demo")
        demo = json.loads((tmp_path / "demo" / "demo.json").read_text())
        write_json(tmp_path / "demo" / "demo.json", demo | {"study": "study.json"})
        (tmp_path / "demo" / "study.json").write_text("{}")
        deep = tmp_path / OWNER / "tlm-bert2-words"
        deep.mkdir(parents=True)
        write_json(deep / "config.json", {"num_hidden_layers": 6})
        entry = replace(entry, demo=tmp_path / "demo", committees={"words": "other/committee"})
        target = tmp_path / OWNER / "tlm-demo"
        stage_space(entry, release, target, tmp_path, smoke=False)
        text = (target / "README.md").read_text()
        assert "a soft committee of 2 encoders, beside one encoder of 6 layers." in text
        assert "as we measured them" in text
        assert "smoke" not in text
