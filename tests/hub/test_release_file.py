"""The release file: every mistake in one sentence. Oracles: the planted mistake, git's names of branches."""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import refusal

from tlm_hf.errors import UserError
from tlm_hf.hub.release_file import BRANCH, read_release
from tlm_hf.study.quickstart import ARMS, FULL, SMOKE

WHOLE = """\
version: 0.1.0
namespace: tiny-lab
licence: mit
encoders:
  tlm-bert1: {run: runs, corpus: English Wikipedia, revisions: {seed-1: runs}}
classifiers:
  tlm-news: {run: runs, base: tlm-bert1}
committees:
  tlm-committee: {run: runs, members: [tlm-news, other/model]}
adapters:
  tlm-lora: {run: runs, base: tlm-bert1}
spaces:
  tlm-demo: {demo: runs, committees: {ag_news: tlm-committee}, encoders: {bert-1: tlm-bert1}}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text):
    Path("release.yaml").write_text(text)
    return read_release("release.yaml")


def test_a_whole_file(here):
    release = read(WHOLE)
    names = ["tlm-bert1", "tlm-lora", "tlm-news", "tlm-committee", "tlm-demo"]
    assert [entry.name for entry in release.entries] == names
    entries = {entry.name: entry for entry in release.entries}
    assert entries["tlm-bert1"].revisions == {"seed-1": Path("runs")}
    assert entries["tlm-committee"].links == [("members", "tlm-news"), ("members", "other/model")]
    assert release.repo_id("tlm-news@seed-1") == "tiny-lab/tlm-news"
    assert entries["tlm-demo"].links == [("committees", "tlm-committee"), ("encoders", "tlm-bert1")]
    assert (release.licence, release.language) == ("mit", "en")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("encoders:", "encoder:", "'encoder' (did you mean 'encoders'?)"),
        ("base: tlm-bert1", "base: tlm-bert2", "'tlm-bert2', which is not in this release (did you mean 'tlm-bert1'?)"),
        ("members: [tlm-news,", "members: [tlm-bert1,", "kind encoder: name one of the kind classifier"),
        ("{run: runs, base: tlm-bert1}\nspaces", "{run: runs}\nspaces", "tlm-lora has no 'base'"),
        ("{run: runs, base: tlm-bert1}\nspaces", "{run: runs, base: tlm-bert1@seed-1}\nspaces", "only a main branch"),
        ("0.1.0", "'0.1'", "X.Y.Z"),
        ("tlm-news: {", "yes: {", "'name' expected str, got bool"),
        ("tlm-news: {", '"a b": {', "tiny-lab/a b"),
        ("demo: runs", "demo: nowhere", "nowhere, and there is no such folder"),
        ("corpus: English Wikipedia", "corpus: [a]", "tlm-bert1: Field 'corpus'"),
        ("members: [tlm-news, other/model]", "members: tlm-news", "'members' expected a list"),
        ("seed-1: runs", "main: runs", "the branch 'main'"),
        ("  tlm-lora: {", "  tlm-bert1: {", "two repositories"),
        ("encoders:\n", "encoders: [\n", "expected"),
    ],
)
def test_mistakes_are_named(here, old, new, words):
    text = WHOLE.replace(old, new, 1)
    assert text != WHOLE
    said = refusal(read, text)
    assert words in said
    assert "release.yaml" in said


@pytest.mark.parametrize("text", ["", "- a", "version: 0.1.0\nnamespace: x\n", "namespace: x\nencoders: {}\n", "\0"])
def test_files_that_say_too_little(here, text):
    refusal(read, text)
    with pytest.raises(UserError, match=r"absent\.yaml"):
        read_release("absent.yaml")


def test_branches_are_names_that_git_accepts_and_reads_as_nothing_else():
    for name in ("seed-1", "step_500"):
        assert BRANCH.fullmatch(name)
        subprocess.run(["git", "check-ref-format", "--branch", name], capture_output=True, check=True)
    for name in ("a..b", "-a", "a.lock", "a b", "a@{b", "main", "HEAD", "v1.2.3", "0" * 40, "a/b"):
        assert not BRANCH.fullmatch(name)


@pytest.mark.parametrize(("name", "plan"), [("quickstart", FULL), ("quickstart-smoke", SMOKE)])
def test_the_shipped_file_names_the_folders_that_the_quickstart_leaves(tmp_path, monkeypatch, name, plan):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).resolve().parents[2] / "scripts" / "releases" / "quickstart.yaml").read_text()
    if plan is SMOKE:
        (program,) = re.findall(r"sed '(.*)'", text)
        text = subprocess.run(["sed", program], input=text, capture_output=True, text=True, check=True).stdout
    made = [f"encoders/{encoder}" for encoder in plan.encoders] + ["release/demo"]
    for arm in ARMS:
        made += [f"classifiers/{run}" for encoder in plan.encoders for run in plan.classifiers(encoder, arm)]
        made += [f"committees/committee-{arm}-{seed}" for seed in range(plan.seeds)]
    for folder in made:
        (Path("outputs") / name / folder).mkdir(parents=True)
    release = read(text)
    assert (release.version, release.namespace) == ("0.1.0", "your-name")
    assert all(("smoke" in entry.name) == (plan is SMOKE) for entry in release.entries)
