"""Data sets to publish: classes that leak whole, names from data in a card, names of sizes, subsets of subsets.

Oracles: huggingface_hub's reading of the card, `datasets` on the folder, values worked out by hand.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from helpers_commands import labelled_rows, write_csv
from huggingface_hub import DatasetCard
from test_prepare_data import LABELS, refused, succeed

from tlm_hf.data.dataset_card import size_category
from tlm_hf.data.leakage import find_lineage
from tlm_hf.data.prepare import config_name


def test_a_class_that_leaks_whole_is_named(tmp_path, capsys):
    rows = labelled_rows(20, classes=LABELS)
    (tmp_path / "task").mkdir()
    test = rows[20:]
    leaks = [{"text": row["text"].upper(), "label": "sea"} for row in test if row["label"] == "sea"]
    write_csv(tmp_path / "task" / "train.csv", [*leaks, *(row for row in rows[:20] if row["label"] == "farm")])
    write_csv(tmp_path / "task" / "test.csv", test)
    message = refused(capsys, "--task", tmp_path / "task", "--drop-leakage", "--output-dir", tmp_path / "out")
    assert "'sea'" in message
    assert not (tmp_path / "out").exists()


def test_names_from_data_are_harmless(tmp_path):
    nasty = ["a|b", "<script>x</script>", "key: value", "- item", "[x](http://evil)", "`*_#"]
    rows = [{**row, "label": nasty[index % 6]} for index, row in enumerate(labelled_rows(60, classes=LABELS))]
    succeed("--task", write_csv(tmp_path / "rows.csv", rows), "--output-dir", tmp_path / "data")
    card = DatasetCard.load(tmp_path / "data" / "README.md")
    names = card.data.to_dict()["dataset_info"]["features"][2]["dtype"]["class_label"]["names"]
    assert sorted(names.values()) == sorted(nasty)
    assert "<script" not in card.text
    assert "](http://evil" not in card.text.replace("\\]", "")
    assert datasets.load_dataset(str(tmp_path / "data"))["train"].features["label"].names == sorted(nasty)


@pytest.mark.parametrize(
    ("size", "name"), [(20_000, "20k"), (2_000_000, "2m"), (1_500_000, "1500k"), (1234, "1234"), (None, "all")]
)
def test_configuration_names(size, name):
    assert config_name(size) == name


@pytest.mark.parametrize(
    ("rows", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M")]
)
def test_size_categories(rows, name):
    assert size_category(rows) == name


@pytest.fixture(scope="module")
def ag_news(tmp_path_factory) -> Path:
    """A folder that says it is AG News, hence has a known licence, of four classes of own sentences."""
    folder = tmp_path_factory.mktemp("lineage")
    rows = labelled_rows(30, classes=("farm", "sea", "school", "farm"))
    for number, row in enumerate(rows):
        row |= {"label": number % 4, "text": f"{row['text']} of {number}"}
    (folder / "source").mkdir()
    write_csv(folder / "source" / "train.csv", rows[:80])
    write_csv(folder / "source" / "test.csv", rows[80:])
    words = ("--train-per-label", 12, "--validation-per-label", 4, "--test-per-label", 5, "--task-seed", 3)
    succeed("--task", "ag_news", "--task-path", folder / "source", *words, "--output-dir", folder / "small-news")
    return folder / "small-news"


def facts(folder: Path) -> dict:
    return json.loads((folder / "subset.json").read_text(encoding="utf-8"))


LICENCE = "ag-corpus-research-non-commercial"


def test_a_subset_of_a_subset_says_where_the_text_came_from(ag_news, tmp_path):
    first = facts(ag_news)["configs"]["default"]["train"]
    assert facts(ag_news)["made_from"] is None
    succeed("--corpus", ag_news, "--num-texts", 10, 20, "--validation-texts", 4, "--output-dir", tmp_path / "texts")
    made_from = facts(tmp_path / "texts")["made_from"]
    carried = ("task", "source", "revision", "columns", "seed", "rows", "sha256")
    assert made_from["facts"] == {key: first[key] for key in carried}
    assert (made_from["facts"]["seed"], made_from["facts"]["rows"]) == (3, 48)
    assert {key: made_from[key] for key in ("name", "config", "origin", "made_from")} == {
        "name": "small-news", "config": "default", "origin": "ag_news", "made_from": None,
    }  # fmt: skip
    card = DatasetCard.load(tmp_path / "texts" / "README.md")
    assert card.data.license_name == LICENCE
    assert card.data.to_dict()["source_datasets"] == ["fancyzhx/ag_news"]
    assert "non-commercial" in card.text
    assert "Made from the configuration `default` of the data set `small-news`" in card.text
    assert f"- revision: {first['revision']}" in card.text
    # A subset of that one, of a configuration that is not the default.
    words = ("--corpus-config", "10", "--validation-texts", 2, "--output-dir", tmp_path / "fewer")
    succeed("--corpus", tmp_path / "texts", *words)
    record = facts(tmp_path / "fewer")
    assert record["made_from"]["made_from"] == made_from
    assert [record["made_from"][key] for key in ("name", "config", "origin")] == ["texts", "10", "ag_news"]
    for split in ("train", "validation"):
        assert record["configs"]["all"][split]["config"] == "10"
    card = DatasetCard.load(tmp_path / "fewer" / "README.md")
    assert card.data.license_name == LICENCE
    parents = ["Made from the configuration `10` of the data set `texts`", "of the data set `small-news`"]
    assert [parent in card.text for parent in parents] == [True, True]
    assert card.text.index(parents[0]) < card.text.index(parents[1])


@pytest.mark.parametrize(
    "place", ["small-news", "small-news/default", "small-news/default/train-00000-of-00001.parquet"]
)
def test_the_folder_is_known_from_within_and_as_a_task(ag_news, place, tmp_path):
    succeed("--task", ag_news.parent / place, "--output-dir", tmp_path / "again")
    made_from = facts(tmp_path / "again")["made_from"]
    assert [made_from[key] for key in ("name", "config", "origin")] == ["small-news", "default", "ag_news"]
    assert facts(tmp_path / "again")["configs"]["default"]["test"]["config"] == "default"
    assert DatasetCard.load(tmp_path / "again" / "README.md").data.license_name == LICENCE


def test_a_known_name_read_from_a_prepared_folder_keeps_its_lineage(ag_news, tmp_path):
    (tmp_path / "root").mkdir()
    shutil.copytree(ag_news, tmp_path / "root" / "wikipedia")
    words = ("--data-root", tmp_path / "root", "--validation-texts", 4, "--output-dir", tmp_path / "texts")
    succeed("--corpus", "wikipedia", *words)
    assert facts(tmp_path / "texts")["made_from"]["origin"] == "ag_news"  # whatever the folder is called
    assert DatasetCard.load(tmp_path / "texts" / "README.md").data.license_name == LICENCE
    words = ("--task", "ag_news", "--task-path", ag_news, "--all-rows", "--output-dir", tmp_path / "task")
    succeed(*words)
    assert facts(tmp_path / "task")["made_from"]["name"] == "small-news"


def test_a_folder_that_was_changed_hands_nothing_on(ag_news, tmp_path, caplog):
    def lineage(change: Callable[[Path], object], place: str = ".") -> dict | None:
        folder = tmp_path / "changed"
        shutil.copytree(ag_news, folder)
        change(folder)
        try:
            return find_lineage(str(folder / place))
        finally:
            shutil.rmtree(folder)

    def edit(**entries: object) -> Callable[[Path], object]:
        return lambda folder: (folder / "subset.json").write_text(json.dumps({**facts(folder), **entries}))

    other = datasets.Dataset.from_dict({"text": ["mine"], "label": [0]})
    table = "default/train-00000-of-00001.parquet"
    assert lineage(lambda folder: None).origin == "ag_news"
    assert not caplog.text
    assert lineage(lambda folder: other.to_parquet(str(folder / table))) is None
    assert "small-news" in caplog.text or table in caplog.text
    beside = "default/more.parquet"
    assert lineage(lambda folder: other.to_parquet(str(folder / beside)), "default") is None
    assert lineage(lambda folder: other.to_parquet(str(folder / beside))).origin == "ag_news"  # the card leaves it out
    for entries in ({"kind": "other"}, {"configs": {}}, {"configs": 3}, {"files": None}, {"made_from": {"name": 1}}):
        assert lineage(edit(**entries)) is None
    assert lineage(lambda folder: (folder / "subset.json").write_text("{")) is None
    assert find_lineage("owner/name") is None
    assert find_lineage("ag_news") is None
