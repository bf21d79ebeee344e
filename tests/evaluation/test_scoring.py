"""`tlm score` on a table: which rows are scored."""

import json

import pytest
from helpers_commands import refused, results_of, shelf, succeed


def scored(capsys, model, *words):
    home = shelf()  # made by the first test that asks for it, with words on stdout
    capsys.readouterr()
    succeed("score", "--model", home / model, "--task", home / "task.csv", "--disable-tqdm", *words)
    return json.loads(capsys.readouterr().out)


def test_the_split_is_chosen(capsys, tmp_path):
    splits = ("train", "validation", "test", "all")
    counts = {split: scored(capsys, "member", "--split", split)["texts"] for split in splits}
    assert counts == {"train": 56, "validation": 12, "test": 12, "all": 80}
    assert scored(capsys, "member")["texts"] == 80


@pytest.mark.parametrize("model", ["member", "committee"])
def test_scores_are_those_of_the_results(capsys, tmp_path, model):
    found = scored(capsys, model, "--split", "test", "--output", tmp_path / "scores.json")["metrics"]
    assert found == json.loads((tmp_path / "scores.json").read_text())["metrics"]
    expected = results_of(shelf() / model)["test"]
    assert {name: found[name] for name in ("accuracy", "macro_f1", "loss")} == pytest.approx(
        {name: expected[name] for name in ("accuracy", "macro_f1", "loss")}, abs=1e-5
    )


def test_a_folder_as_output_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tlm_hf.evaluation.scoring.read_config", None)
    words = ("--task", shelf() / "task.csv", "--output", tmp_path)
    assert tmp_path.name in refused(capsys, "score", "--model", shelf() / "member", *words)
