"""Data sets to publish: classes that leak whole, names from data in a card, names of sizes.

Oracles: huggingface_hub's reading of the card, `datasets` on the folder, values worked out by hand.
"""

import datasets
import pytest
from helpers_commands import labelled_rows, write_csv
from huggingface_hub import DatasetCard
from test_prepare_data import LABELS, refused, succeed

from tlm_hf.data.prepare import config_name
from tlm_hf.hub.dataset_cards import size_category


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
