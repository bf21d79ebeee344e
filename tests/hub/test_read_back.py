"""A released family read by a stranger: another process without the package, an empty cache, a token that may read."""

import json
import os
import subprocess
import sys

import pytest
from conftest import BLOCKER
from helpers_family import OWNER, RELEASE, family, staged
from helpers_release import client, local_hub
from safetensors.torch import load_file

from tlm_hf.hub.push import push

READER = "hf_" + "ReaderToken" * 3
CARDS = [[name, None] for section in list(RELEASE.values())[2:6] for name in section]
BRANCHES = [["tlm-bert1", "seed-1"], ["tlm-committee-words", "seed-1"]]
STRANGER = """
import json, os, pathlib, re
import transformers
from huggingface_hub import snapshot_download

order = json.loads(sys.argv[1])
found = {"snippets": {}, "sums": {}}
model = transformers.AutoModel.from_pretrained("tiny-lab/tlm-bert1")
found["encoder"] = type(model).__module__
for revision in ("main", "seed-1", "v0.1.0"):
    model = transformers.AutoModel.from_pretrained("tiny-lab/tlm-bert1", revision=revision)
    found["sums"][revision] = model.embeddings.word_embeddings.weight.double().sum().item()
for name in ("tlm-bert1-words", "tlm-committee-words"):
    classify = transformers.pipeline("text-classification", model="tiny-lab/" + name, trust_remote_code=True)
    found[name] = classify("the cow and the boat")[0]["label"]
found["without a task"] = transformers.pipeline(model="tiny-lab/tlm-bert2")("the [MASK] and the boat")[0]["token_str"]
for name, branch in order["cards"]:
    folder = pathlib.Path(snapshot_download("tiny-lab/" + name, revision=branch))
    (code,) = re.findall(r"^```python\\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(code, name, "exec"), names)
    if [name, branch] == ["tlm-bert1", "seed-1"]:
        found["sums"]["snippet"] = names["model"].embeddings.word_embeddings.weight.double().sum().item()
    found["snippets"][name + ("@" + branch if branch else "")] = "ran"
# The Space as it runs on the Hub: its own files, and the repositories that they name.
space = snapshot_download("tiny-lab/tlm-demo", repo_type="space")
os.chdir(space)
sys.path.insert(0, space)
sys.dont_write_bytecode = True
import app, demo_data, demo_models
demo = demo_data.load_demo()
app.build_app(demo)
(task,) = demo.tasks.values()
answer = demo_models.classify("the cow and the boat", task.committee)
found["space"] = {"trouble": demo.trouble, "sum": float(sum(answer.probabilities))}
found["space"]["encoders"] = [each.name for each in demo.encoders]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON", "TLM_"))}
    with local_hub() as hub:
        push(str(staged()), hub=client(hub))
        hub.add_user("reader", READER, role="read", organizations={OWNER: "read"})
        environment = kept | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_TOKEN": READER, "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        order = {"cards": CARDS + BRANCHES}
        done = subprocess.run(
            [sys.executable, "-c", BLOCKER + STRANGER, json.dumps(order)], cwd=folder, env=environment, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_models_open_and_snippets_of_cards_run(stranger):
    assert stranger["encoder"] == "transformers.models.bert.modeling_bert"
    assert {stranger["tlm-bert1-words"], stranger["tlm-committee-words"]} <= {"farm", "sea"}
    assert stranger["without a task"]
    names = [name + (f"@{branch}" if branch else "") for name, branch in CARDS + BRANCHES]
    assert stranger["snippets"] == dict.fromkeys(names, "ran")


def test_branches_and_tags_have_their_own_weights(stranger):
    runs = {"main": "encoder", "v0.1.0": "encoder", "seed-1": "encoder-1", "snippet": "encoder-1"}
    for name, run in runs.items():
        weights = load_file(family() / run / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
        assert stranger["sums"][name] == pytest.approx(weights.double().sum().item()), name


def test_the_space_runs_on_the_repositories_of_its_release(stranger):
    assert stranger["space"]["trouble"] == []
    assert stranger["space"]["sum"] == pytest.approx(1, abs=1e-4)
    assert {"one layer", "two layers"} <= set(stranger["space"]["encoders"])
