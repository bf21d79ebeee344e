"""A family of smoke runs staged, verified, pushed and read back by strangers.

Oracles: the local Hub's own record of what arrived, the runs' weights and results, huggingface_hub's reading of cards,
and fresh processes that cannot import the package. `test_release_faults` has pushes that are disturbed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import BLOCKER
from helpers_commands import check_error, contents
from helpers_family import OWNER, family, mark_verified, verified
from helpers_release import TOKEN, api, client, local_hub, restored
from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData
from safetensors.torch import load_file

from tlm_hf.errors import UserError
from tlm_hf.hub.push import push, status
from tlm_hf.hub.release_directory import push_to_directory
from tlm_hf.hub.stage import read_staged, stage
from tlm_hf.hub.verify import verify

ROOT = Path(__file__).resolve().parents[2]
REPOSITORIES = {
    "dataset": ["tlm-texts"],
    "model": ["tlm-bert1", "tlm-bert2", "tlm-conv", "tlm-bert1-words-lora", "tlm-bert1-words", "tlm-bert2-words",
              "tlm-committee-words"],
    "space": ["tlm-demo"],
}  # fmt: skip
ORDER = [(kind, f"{OWNER}/{name}") for kind, names in REPOSITORIES.items() for name in names]
RUNS = {"tlm-bert1": "encoder", "tlm-conv": "conv", "tlm-bert1-words": "first", "tlm-committee-words": "together"}


@pytest.fixture(scope="module")
def output():
    return verified()


@pytest.fixture(scope="module")
def hub(output):
    """A hub to which the family was pushed once; tests that change it take a copy of its state."""
    with local_hub() as running:
        push(str(output), hub=client(running))
        yield running


@pytest.fixture
def changed_hub(hub):
    with restored(hub):
        yield hub


@pytest.fixture
def copy(output, tmp_path):
    """The staged and verified release, to be changed."""
    shutil.copytree(output, tmp_path / "release")
    return tmp_path / "release"


def local_files(output, name):
    return {path: (output / OWNER / name / path).read_bytes() for path in contents(output / OWNER / name)}


class TestStaged:
    @pytest.mark.parametrize("name", RUNS)
    def test_weights_are_those_of_the_run(self, output, name):
        ours = load_file(output / OWNER / name / "model.safetensors")
        theirs = load_file(family() / RUNS[name] / "model.safetensors")
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    def test_numbers_in_cards_are_in_the_results(self, output):
        """Every decimal number of a card's text is one of its results file or manifest, rounded."""
        for name in (*RUNS, "tlm-bert1-words-lora"):
            folder = output / OWNER / name
            text = (folder / "results.json").read_text() + (folder / "manifest.json").read_text()
            numbers = [float(found) for found in re.findall(r"-?\d+\.\d+(?:e-?\d+)?|-?\d+", text)]
            numbers += [100 * value for value in numbers]  # shown as percent
            body = ModelCard.load(folder / "README.md").text
            body = re.sub(r"2507\.14871|[Aa]pache-2\.0|`[^`]*`|(transformers|torch|tlm-hf) [\d.]+", "", body)
            for shown in re.findall(r"\d+\.\d+", body):
                digits = len(shown.split(".")[1])
                assert any(abs(float(shown) - value) <= 0.5001 * 10**-digits for value in numbers), (name, shown)

    def test_metadata_points_to_members_bases_and_data(self, output):
        def data(name):
            return ModelCard.load(output / OWNER / name / "README.md").data

        assert data("tlm-committee-words").base_model == [f"{OWNER}/tlm-bert1-words", f"{OWNER}/tlm-bert2-words"]
        assert data("tlm-bert1-words").base_model == [f"{OWNER}/tlm-bert1"]
        assert data("tlm-bert1-words-lora").library_name == "peft"
        assert data("tlm-bert1").datasets == [f"{OWNER}/tlm-texts"]
        assert data("tlm-bert1").pipeline_tag == "fill-mask"
        assert data("tlm-bert1-words").to_dict()["widget"] == [{"text": "the cow and the boat"}]
        adapter = json.loads((output / OWNER / "tlm-bert1-words-lora" / "adapter_config.json").read_text())
        assert adapter["base_model_name_or_path"] == f"{OWNER}/tlm-bert1"

    def test_front_matter_comes_back(self, output):
        for kind, name in ORDER:
            card_class, data_class = (DatasetCard, DatasetCardData) if kind == "dataset" else (ModelCard, ModelCardData)
            if kind == "space":
                continue
            card = card_class.load(output / name / "README.md")
            assert isinstance(card.data, data_class)
            again = card_class(f"---\n{card.data.to_yaml()}\n---\n{card.text}")
            assert again.data.to_dict() == card.data.to_dict()

    def test_nothing_tells_of_this_machine(self, output):
        for path in output.rglob("*"):
            if path.is_file() and path.suffix in (".json", ".md", ".yaml") and path.parent.name != "measured":
                text = path.read_text()
                assert str(family().parent) not in text, path
                assert str(ROOT) not in text, path

    def test_the_space_is_that_of_the_checkout(self, output):
        source = contents(ROOT / "spaces" / "tlm-demo")
        there = contents(output / OWNER / "tlm-demo")
        for name, digest in source.items():
            if "__pycache__" not in name and name != "README.md" and not name.startswith("demo/"):
                assert there.pop(name) == digest
        assert {name.split("/")[0] for name in there} == {"README.md", "demo", "manifest.json"}

    def test_staged_again_it_is_the_same(self, output, tmp_path, monkeypatch):
        monkeypatch.chdir(family())
        shutil.copytree(output / "measured", tmp_path / "again" / "measured")
        stage("release.yaml", str(tmp_path / "again"))
        assert contents(tmp_path / "again" / OWNER) == contents(output / OWNER)


class TestPushed:
    def test_everything_arrived_in_order_in_one_commit_each(self, hub, output):
        assert list(hub.state.repositories) == ORDER
        for kind, name in ORDER:
            files = hub.files(kind, name)
            assert files.pop(".gitattributes")
            assert files == local_files(output, name.split("/")[1])
            assert hub.commits(kind, name) == ["Release 0.1.0", "initial commit"]
            assert hub.repository(kind, name).private
            assert hub.repository(kind, name).tags == {"v0.1.0": hub.repository(kind, name).branches["main"]}
        branch = hub.files("model", f"{OWNER}/tlm-bert1", "seed-1")
        assert branch["model.safetensors"] == (family() / "encoder-1" / "model.safetensors").read_bytes()
        (collection,) = hub.snapshot()["collections"]
        assert collection["items"] == [*ORDER, ("paper", "2507.14871")]
        assert collection["private"]

    def test_a_second_push_changes_nothing(self, changed_hub, output):
        before = changed_hub.snapshot()
        assert push(str(output), hub=client(changed_hub))["commits"] == 0
        assert {request.method for request in changed_hub.requests} == {"GET"}
        assert changed_hub.snapshot() == before

    def test_dry_run_and_status_change_nothing_and_name_every_file(self, output):
        with local_hub() as empty:
            found = push(str(output), hub=client(empty), dry_run=True)
            assert not empty.state.repositories
            for path, size in ((path, len(content)) for _, name in ORDER for path, content in
                               local_files(output, name.split("/")[1]).items()):  # fmt: skip
                assert re.search(rf"send\s+{size:,} bytes  {re.escape(path)}$", found["table"], re.MULTILINE)
            assert all(not row["is_there"] for row in status(str(output), hub=client(empty))["repositories"])

    def test_status_names_what_differs(self, changed_hub, output):
        changed_hub.foreign_commit("model", f"{OWNER}/tlm-conv", {"README.md": b"mine now\n"})
        found = {row["repository"]: row for row in status(str(output), hub=client(changed_hub))["repositories"]}
        assert found[f"{OWNER}/tlm-conv"]["foreign"] == "README.md"
        assert list(found[f"{OWNER}/tlm-conv"]["send"]) == ["README.md"]
        assert found[f"{OWNER}/tlm-bert1"]["send"] == {}
        assert found[f"{OWNER}/tlm-bert1"]["hub"] == "0.1.0"

    def test_someone_elses_change_is_kept_until_overwritten(self, changed_hub, output, one_sentence):
        name = f"{OWNER}/tlm-conv"
        changed_hub.foreign_commit("model", name, {"notes.md": b"mine\n"})
        with pytest.raises(UserError) as refusal:
            push(str(output), hub=client(changed_hub))
        assert "notes.md" in one_sentence(refusal.value)
        assert changed_hub.files("model", name)["notes.md"] == b"mine\n"
        del changed_hub.repository("model", name).tags["v0.1.0"]
        push(str(output), hub=client(changed_hub), overwrite=True)
        assert "notes.md" not in changed_hub.files("model", name)

    def test_public_in_the_end(self, changed_hub, output):
        push(str(output), hub=client(changed_hub), public=True)
        assert not any(each.private for each in changed_hub.state.repositories.values())
        assert not changed_hub.snapshot()["collections"][0]["private"]

    def test_nothing_is_public_before_the_last_upload(self, output):
        with local_hub() as other:
            other.fault("status", method="POST", path="tlm-demo/commit/", code=403, times=1000)
            with pytest.raises(UserError):
                push(str(output), hub=client(other), public=True)
            assert all(each.private for each in other.state.repositories.values())

    def test_only_changed_files_are_sent(self, changed_hub, copy, one_sentence):
        folder = copy / OWNER / "tlm-bert2"
        (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMore.\n")
        with pytest.raises(UserError) as refusal:  # edited after it was verified
            push(str(copy), hub=client(changed_hub))
        assert "tlm-bert2/README.md" in one_sentence(refusal.value)
        manifest = json.loads((folder / "manifest.json").read_text())
        from tlm_hf.hub.manifest import describe_files

        (folder / "manifest.json").write_text(json.dumps(manifest | {"files": describe_files(folder)}))
        mark_verified(copy)
        with pytest.raises(UserError) as refusal:  # the version is taken
            push(str(copy), hub=client(changed_hub))
        assert "version" in one_sentence(refusal.value)
        release = json.loads((copy / "release.json").read_text())
        (copy / "release.json").write_text(json.dumps(release | {"version": "0.1.1"}))
        with pytest.raises(UserError, match=r"release\.json was changed"):  # what was verified had another version
            push(str(copy), hub=client(changed_hub))
        mark_verified(copy)
        changed_hub.requests.clear()
        assert push(str(copy), hub=client(changed_hub))["commits"] == 1
        assert not [request for request in changed_hub.requests if request.method == "PUT"]
        assert changed_hub.commits("model", f"{OWNER}/tlm-bert2")[0] == "Release 0.1.1"
        assert set(changed_hub.repository("model", f"{OWNER}/tlm-bert1").tags) == {"v0.1.0", "v0.1.1"}


STRANGER = """
import json
import datasets, transformers
from huggingface_hub import snapshot_download

found = {}
model = transformers.AutoModel.from_pretrained("tiny-lab/tlm-bert1")
found["encoder"] = type(model).__module__
other = transformers.AutoModel.from_pretrained("tiny-lab/tlm-bert1", revision="seed-1")
weights = [each.embeddings.word_embeddings.weight.sum().item() for each in (model, other)]
found["branches differ"] = weights[0] != weights[1]
tagged = transformers.AutoModel.from_pretrained("tiny-lab/tlm-bert1", revision="v0.1.0")
found["tag"] = tagged.embeddings.word_embeddings.weight.sum().item() == weights[0]
for name in ("tlm-bert1-words", "tlm-committee-words"):
    classify = transformers.pipeline("text-classification", model="tiny-lab/" + name, trust_remote_code=True)
    found[name] = classify("the cow and the boat")[0]["label"]
found["without a task"] = transformers.pipeline(model="tiny-lab/tlm-bert2")("the [MASK] and the boat")[0]["token_str"]
conv = transformers.AutoModelForMaskedLM.from_pretrained("tiny-lab/tlm-conv", trust_remote_code=True)
found["conv"] = type(conv).__name__
found["rows"] = {config: len(datasets.load_dataset("tiny-lab/tlm-texts", config)["train"]) for config in ("40", "80")}
space = snapshot_download("tiny-lab/tlm-demo", repo_type="space")
snippets = {}
import pathlib, re
for name in json.loads(sys.argv[1]):
    kind = "dataset" if name == "tlm-texts" else "model"
    card = pathlib.Path(snapshot_download("tiny-lab/" + name, repo_type=kind)) / "README.md"
    for code in re.findall(r"^```python\\n(.*?)^```$", card.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(code, name, "exec"), {})
        snippets[name] = snippets.get(name, 0) + 1
found["snippets"] = snippets
# The Space as it runs on the Hub: its own files, and the repositories that its variables name.
import os
os.environ.update(json.loads(sys.argv[2]))
os.chdir(space)
sys.path.insert(0, space)
sys.dont_write_bytecode = True
import app, demo_data, demo_models
demo = demo_data.load_demo()
app.build_app(demo)
assert demo.tasks, demo.trouble
(task,) = demo.tasks.values()
answer = demo_models.classify("the cow and the boat", task.committee, task.deep)
found["space"] = {"trouble": demo.trouble, "sum": float(sum(answer.probabilities)), "fillers": list(demo.fillers)}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def stranger(hub, tmp_path_factory):
    """What another process found on the hub: an empty cache, no package, a token that may read."""
    hub.add_user("reader", "hf_" + "ReaderToken" * 3, role="read", organizations={OWNER: "read"})
    folder = tmp_path_factory.mktemp("stranger")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON", "TLM_"))}
    environment = kept | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_TOKEN": "hf_" + "ReaderToken" * 3,
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    names = json.dumps([*REPOSITORIES["dataset"], *REPOSITORIES["model"]])
    variables = json.dumps(hub.repository("space", f"{OWNER}/tlm-demo").variables)
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER + STRANGER, names, variables], cwd=folder, env=environment, text=True,
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


class TestReadBack:
    def test_models_open(self, stranger):
        assert stranger["encoder"] == "transformers.models.bert.modeling_bert"
        assert stranger["branches differ"]
        assert stranger["tag"]
        assert stranger["conv"] == "TLMForMaskedLM"
        assert {stranger["tlm-bert1-words"], stranger["tlm-committee-words"]} <= {"farm", "sea"}
        assert stranger["without a task"]

    def test_data_open(self, stranger):
        assert stranger["rows"] == {"40": 40, "80": 80}

    def test_snippets_of_every_card_run_as_they_stand(self, stranger):
        assert stranger["snippets"] == dict.fromkeys([*REPOSITORIES["dataset"], *REPOSITORIES["model"]], 1)

    def test_the_space_runs_on_the_repositories_that_its_variables_name(self, stranger):
        assert stranger["space"]["trouble"] == []
        assert stranger["space"]["sum"] == pytest.approx(1, abs=1e-4)
        assert {"one layer", "two layers"} <= set(stranger["space"]["fillers"])


class TestRefusals:
    def run(self, *words, **environment):
        kept = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "TLM_DATA")}
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "release.py"), *map(str, words)], text=True, check=False,
            cwd=family(), stdin=subprocess.DEVNULL, capture_output=True,
            env=kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip

    def test_no_token(self, output, tmp_path):
        done = self.run("push", "--output-dir", output, HF_HOME=str(tmp_path))
        assert done.returncode == 2
        assert "token" in check_error(done.stderr)

    def test_the_whole_way_by_the_command(self, output, hub, tmp_path):
        """One subprocess against the hub by its environment alone, as a user starts it; nothing shows the token."""
        done = self.run(
            "push", "--output-dir", output, HF_HOME=str(tmp_path), HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN,
            HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE="0",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "0 commits; tag v0.1.0" in done.stdout
        assert TOKEN not in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("token", "role", "organizations", "words"),
        [
            ("hf_" + "Nobody" * 6, None, {}, "does not take the token"),
            ("hf_" + "Reader" * 6, "read", {OWNER: "write"}, "may only read"),
            ("hf_" + "Stranger" * 5, "write", {}, "does not exist or is not one"),
            ("hf_" + "Member" * 6, "write", {OWNER: "read"}, "write access"),
        ],
    )
    def test_tokens_without_rights(self, changed_hub, output, one_sentence, token, role, organizations, words):
        if role is not None:
            changed_hub.add_user("another", token, role=role, organizations=organizations)
        with pytest.raises(UserError) as refusal:
            push(str(output), hub=client(changed_hub, token))
        assert words in one_sentence(refusal.value)
        assert token not in str(refusal.value)
        assert {request.method for request in changed_hub.requests} == {"GET"}

    def test_not_verified(self, copy, changed_hub, one_sentence):
        (copy / "verified.json").unlink()
        for attempt in (lambda: push(str(copy), hub=client(changed_hub)), lambda: push_to_directory(str(copy), "x")):
            with pytest.raises(UserError) as refusal:
                attempt()
            assert "verify" in one_sentence(refusal.value)
        with pytest.raises(UserError, match="stage"):
            read_staged(str(copy / "nowhere"))

    def test_a_broken_repository_is_not_verified(self, copy, one_sentence):
        folder = copy / OWNER / "tlm-committee-words"
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
        with pytest.raises(UserError) as refusal:
            verify(str(copy))
        assert "tlm-committee-words/config.json was changed" in one_sentence(refusal.value)

    def test_what_others_put_there_is_never_deleted(self, copy, tmp_path, monkeypatch, one_sentence):
        monkeypatch.chdir(family())
        push_to_directory(str(copy), str(tmp_path / "shelf"))
        (tmp_path / "shelf" / "notes").mkdir()
        (tmp_path / "shelf" / "notes" / "thesis.txt").write_text("mine\n")
        (copy / OWNER / "mine").mkdir()
        for folder in (tmp_path / "shelf", copy):
            before = contents(folder)
            with pytest.raises(UserError) as refusal:
                stage("release.yaml", str(folder))
            one_sentence(refusal.value)
            assert contents(folder) == before
        with pytest.raises(UserError, match="lies in"):
            push_to_directory(str(copy), str(copy / "shelf"))

    def test_a_kill_before_the_last_file_leaves_a_folder_that_can_be_staged_again(self, copy, monkeypatch):
        monkeypatch.chdir(family())
        (copy / "release.json").unlink()
        stage("release.yaml", str(copy))
        assert (copy / "release.json").is_file()

    def test_runs_that_do_not_fit(self, tmp_path, monkeypatch, one_sentence):
        monkeypatch.chdir(family())
        text = Path("release.yaml").read_text()
        for old, new, words in (
            ("run: encoder\n", "run: first\n", "is a finetune"),
            ("run: first\n    base: tlm-bert1\n", "run: first\n    base: tlm-bert2\n", "other weights"),
            ("run: adapted", "run: first", "no adapter"),
            ("run: encoder\n", "run: demo\n", "not finished"),
            ("words: tlm-committee-words", "others: tlm-committee-words", "'words'"),
            ("- tlm-bert1-words\n", "- tlm-bert1\n", "is not made of"),
        ):
            assert old in text, old
            (tmp_path / "bad.yaml").write_text(text.replace(old, new, 1))
            with pytest.raises(UserError) as refusal:
                stage(str(tmp_path / "bad.yaml"), str(tmp_path / "out"))
            assert words in one_sentence(refusal.value)
            assert not (tmp_path / "out" / "release.json").exists()

    def test_a_user_of_the_hub_can_read_what_is_private_only_with_a_token(self, hub):
        from huggingface_hub.errors import RepositoryNotFoundError

        assert api(hub).model_info(f"{OWNER}/tlm-bert1").private
        with pytest.raises(RepositoryNotFoundError):
            api(hub, token=False).model_info(f"{OWNER}/tlm-bert1")
