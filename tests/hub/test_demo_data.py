"""`tlm demo` on the committees that the commands wrote."""

from contextlib import chdir

import datasets
import pytest
from helpers_commands import refused
from helpers_family import family


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--committees"),
        (("--committees", "together"), "'together'"),
        (("--committees", "words=together", "--deep", "news=second"), "same tasks"),
        (("--committees", "words=encoder"), "encoder is not the output of"),
        (("--committees", "words=together", "--encoders", "bert-1=nowhere"), "nowhere"),
    ],
)
def test_what_is_no_committee_is_refused(capsys, tmp_path, words, said):
    with chdir(family()):
        assert said in refused(capsys, "demo", *words, "--output-dir", str(tmp_path / "demo"))
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("kind", ["pairs", "numbers"])
def test_what_train_committee_made_of_pairs_or_numbers_is_refused(capsys, tmp_path, kind):
    splits = {"train": range(12), "validation": range(12, 18), "test": range(18, 24)}
    (tmp_path / "work" / "data").mkdir(parents=True)
    for split, rows in splits.items():
        texts = {"text": [f"first {row}" for row in rows]}
        if kind == "pairs":
            texts["text_pair"] = [f"second {row}" for row in rows]
        label = datasets.ClassLabel(names=["no", "yes"]) if kind == "pairs" else datasets.Value("float32")
        table = datasets.Dataset.from_dict(texts | {"label": [row % 2 for row in rows]}).cast_column("label", label)
        table.to_parquet(str(tmp_path / "work" / "data" / f"{split}.parquet"))
    with chdir(family()):
        words = ("--committees", f"pairs={tmp_path}", "--encoders", "bert-1=encoder")
        assert "not one class for each text" in refused(capsys, "demo", *words, "--output-dir", str(tmp_path / "demo"))


def test_the_output_folder_is_never_one_of_somebody_else(capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    (tmp_path / "study.json").write_text("{}")
    with chdir(family()):
        words = ("demo", "--committees", "words=together", "--encoders", "bert-1=encoder")
        assert "holds other files" in refused(capsys, *words, "--output-dir", tmp_path / "mine")
        assert "holds other files" in refused(capsys, *words, "--output-dir", family() / "together" / "..")
        assert "not of a study" in refused(
            capsys, *words, "--output-dir", tmp_path / "new", "--study", tmp_path / "study.json"
        )
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"
