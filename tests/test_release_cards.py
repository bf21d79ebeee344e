"""Cards of branches and of classifiers from scratch: what they say, and that their snippets run where they say.

Oracles: what the runs record, the local Hub, and a fresh process that cannot import the package.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import BLOCKER
from helpers_commands import results_of
from helpers_family import OWNER, SENTENCE, family
from helpers_release import client, local_hub
from huggingface_hub import ModelCard

from tlm_hf.errors import UserError
from tlm_hf.hub.manifest import describe_files, tree_hash
from tlm_hf.hub.release_push import push
from tlm_hf.hub.release_reproduce import reproduce
from tlm_hf.hub.release_stage import stage
from tlm_hf.hub.release_verify import verify
from tlm_hf.runs import write_json

ROOT = Path(__file__).resolve().parent.parent
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
    hashes = {f"{OWNER}/{path.name}": tree_hash(path) for path in (folder / "staged" / OWNER).iterdir()}
    write_json(folder / "staged" / "verified.json", {"verified": hashes})
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
        ("tlm-lora", "again", "adapter_config.json", {"r": 3}),
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
