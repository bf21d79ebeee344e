"""The release file: every mistake is named with its line. Oracle: the line counted in the text."""

from pathlib import Path

import pytest
import yaml

from tlm_hf.errors import UserError
from tlm_hf.hub.hub_names import known
from tlm_hf.hub.release_entries import CommitteeEntry, EncoderEntry, SpaceEntry
from tlm_hf.hub.release_file import read_release
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
spaces:
  tlm-demo: {demo: runs, committees: {ag_news: tlm-committee}, encoders: {bert-1: tlm-bert1}}
data:
  tlm-texts: {folder: runs}
collection: {title: Tiny, papers: ["2507.14871"]}
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
    assert [entry.name for entry in release.entries] == [
        "tlm-texts", "tlm-bert1", "tlm-news", "tlm-committee", "tlm-demo",
    ]  # fmt: skip
    _, encoder, _, committee, space = release.entries
    assert isinstance(encoder, EncoderEntry)
    assert encoder.revisions == {"seed-1": Path("runs")}
    assert isinstance(committee, CommitteeEntry)
    assert [release.repo_id(name) for name in committee.linked] == ["tiny-lab/tlm-news", "other/model"]
    assert isinstance(space, SpaceEntry)
    assert space.linked == ["tlm-committee", "tlm-bert1"]
    assert (release.visibility, release.licence, release.language) == ("private", "mit", "en")
    assert release.collection.papers == ["2507.14871"]


@pytest.mark.parametrize(
    ("old", "new", "culprit", "also"),
    [
        ("encoders:", "encoder:", "encoder:", "'encoders'"),
        ("base: tlm-bert1", "base: tlm-bert2", "base: tlm-bert2", "'tlm-bert1'"),
        ("{folder: runs}", "{foldr: runs}", "foldr", "'folder'"),
        ("0.1.0", "'0.1'", "0.1", "X.Y.Z"),
        ("0.1.0", "0.1", "0.1", "quote it"),
        ("tlm-news: {", '"a b": {', '"a b"', "tiny-lab/a b"),
        ("demo: runs", "demo: nowhere", "nowhere", "no folder"),
        ("licence: mit", "licence: apache", "apache", "'apache-2.0'"),
        ("licence: mit", "visibility: secret", "secret", "private or public"),
        ("namespace: tiny-lab", "namespace: tiny-lab\nnamespace: other", "namespace: other", "twice"),
        ("corpus: English Wikipedia", "corpus: [a]", "corpus", "text"),
        ("members: [tlm-news, other/model]", "members: tlm-news", "members", "list"),
        ("seed-1: runs", "main: runs", "main", "branch"),
        ("seed-1: runs", "a/b: runs", "a/b", "branch"),
        ("  tlm-texts: {folder: runs}", "  tlm-bert1: {folder: runs}", None, "two repositories"),
        ("run: runs, base", "base", "tlm-news", "'run'"),
        ("collection: {title: Tiny, papers", "collection: {papers", "collection", "'title'"),
        ('papers: ["2507.14871"]', 'papers: ["arxiv:2507"]', "arxiv:2507", "2507.14871"),
        ("title: Tiny", f"title: Tiny, description: {'a' * 151}", "description", "151 characters"),
        ("encoders:\n", "encoders: [\n", None, "YAML"),
    ],
)
def test_mistakes_are_named_with_their_line(here, one_sentence, old, new, culprit, also):
    text = WHOLE.replace(old, new, 1)
    assert text != WHOLE
    with pytest.raises(UserError) as refusal:
        read(text)
    message = one_sentence(refusal.value)
    assert also in message
    if culprit is not None:
        line = next(number for number, words in enumerate(text.splitlines(), 1) if culprit in words)
        assert f"line {line}:" in message


@pytest.mark.parametrize("text", ["", "- a", "version: 0.1.0\nnamespace: x\n", "namespace: x\nencoders: {}\n"])
def test_files_that_say_too_little(here, one_sentence, text):
    with pytest.raises(UserError) as refusal:
        read(text)
    one_sentence(refusal.value)


def test_a_file_that_is_not_there(here, one_sentence):
    with pytest.raises(UserError) as refusal:
        read_release("absent.yaml")
    assert "absent.yaml" in one_sentence(refusal.value)


def test_names_of_the_hub_hold_what_our_cards_say():
    assert {"apache-2.0", "cc-by-sa-3.0", "gfdl", "mit", "other"} <= known("licence")
    assert {"fill-mask", "text-classification", "text-generation"} <= known("task")
    assert {"transformers", "peft"} <= known("library")
    assert {"en", "no"} <= known("language")  # `no`, which YAML takes for false unless it is quoted


QUICKSTARTS = {"quickstart": FULL, "quickstart-smoke": SMOKE}
RELEASES = Path(__file__).resolve().parents[2] / "scripts" / "releases"


class TestShipped:
    """`scripts/releases/*.yaml`, held against the plans that the quickstart follows."""

    @pytest.mark.parametrize("name", QUICKSTARTS)
    def test_its_folders_are_those_that_the_quickstart_leaves(self, tmp_path, monkeypatch, name):
        plan, output = QUICKSTARTS[name], Path("outputs") / name
        monkeypatch.chdir(tmp_path)
        made = [output / "encoders" / encoder for encoder in plan.encoders]
        runs = [run for encoder in plan.encoders for arm in ARMS for run in plan.classifiers(encoder, arm)]
        made += [output / "classifiers" / run for run in runs]
        made += [output / "committees" / f"committee-{arm}-{seed}" for arm in ARMS for seed in range(plan.seeds)]
        for folder in [*made, output / "release" / "demo"]:
            folder.mkdir(parents=True)
        release = read_release(str(RELEASES / f"{name}.yaml"))
        assert (release.version, release.namespace) == ("0.1.0", "your-name")

    def test_both_have_the_same_structure(self):
        full, smoke = ((RELEASES / f"{name}.yaml").read_text() for name in QUICKSTARTS)
        for old, new in (
            ("tlm-smoke-", "tlm-"),
            ("quickstart-smoke", "quickstart"),
            (f"bert{SMOKE.deep_layers}", f"bert{FULL.deep_layers}"),
            (f"bert-{SMOKE.deep_layers}", f"bert-{FULL.deep_layers}"),
        ):
            assert old in smoke
            smoke = smoke.replace(old, new)
        found, expected = yaml.safe_load(smoke), yaml.safe_load(full)
        assert found.pop("collection").keys() == expected.pop("collection").keys()
        assert found == expected

    def test_no_repository_of_a_smoke_run_has_the_name_of_a_real_one(self):
        names = [
            {repository for section in yaml.safe_load((RELEASES / f"{name}.yaml").read_text()).values()
             if isinstance(section, dict) for repository in section} - {"title", "description", "papers"}
            for name in QUICKSTARTS
        ]  # fmt: skip
        assert len(names[0]) == len(names[1]) == 8
        assert not names[0] & names[1]
