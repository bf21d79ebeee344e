"""`tlm demo` on the committees that the commands wrote."""

import itertools
import json
from contextlib import chdir

import datasets
import numpy as np
import pytest
from helpers_commands import refused
from helpers_family import family

from tlm_hf.data.tasks import load_task
from tlm_hf.evaluation.scoring import predict_logits
from tlm_hf.loading import load_classifier, load_classifier_tokenizer


def test_every_committee_of_the_members_has_the_scores_of_its_models():
    (task,) = json.loads((family() / "demo" / "demo.json").read_text())["tasks"]
    test = load_task(str(family() / "task.csv"))["test"]
    folder = str(family() / "together")
    committee = load_classifier(folder)
    logits, _ = predict_logits(committee, load_classifier_tokenizer(folder, committee), test["text"][:], 8, False, True)
    parts = [parts for size in (1, 2) for parts in itertools.combinations(range(2), size)]
    assert set(task["scores"]) == {"deep", *(" ".join(map(str, part)) for part in parts)}
    for part in parts:
        mean = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[:, part].mean(axis=1)
        accuracy = (mean.argmax(-1) == np.array(test["label"])).mean()
        assert task["scores"][" ".join(map(str, part))]["accuracy"] == pytest.approx(accuracy)


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


def test_a_committee_of_pairs_from_train_committee_is_refused(capsys, tmp_path):
    splits = {"train": range(12), "validation": range(12, 18), "test": range(18, 24)}
    (tmp_path / "work" / "data").mkdir(parents=True)
    for split, rows in splits.items():
        texts = {"text": [f"first {row}" for row in rows], "text_pair": [f"second {row}" for row in rows]}
        table = datasets.Dataset.from_dict(texts | {"label": [row % 2 for row in rows]})
        table.cast_column("label", datasets.ClassLabel(names=["no", "yes"])).to_parquet(
            str(tmp_path / "work" / "data" / f"{split}.parquet")
        )
    with chdir(family()):
        words = ("--committees", f"pairs={tmp_path}", "--encoders", "bert-1=encoder")
        assert "not one class for each text" in refused(capsys, "demo", *words, "--output-dir", str(tmp_path / "demo"))


def test_the_output_folder_is_never_one_of_somebody_else(capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    (tmp_path / "study.json").write_text("{}")
    with chdir(family()):
        words = ("demo", "--committees", "words=together", "--encoders", "bert-1=encoder")
        assert "holds other ones" in refused(capsys, *words, "--output-dir", tmp_path / "mine")
        assert "holds together" in refused(capsys, *words, "--output-dir", family() / "together" / "..")
        assert "not of a study" in refused(
            capsys, *words, "--output-dir", tmp_path / "new", "--study", tmp_path / "study.json"
        )
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"
