"""`tlm score` on a table: which rows are scored."""

import json

import pytest
from helpers_commands import refused, results_of, shelf, succeed


@pytest.fixture
def scored(capsys):
    """Function `(task, *words)` to what `tlm score` prints of the member on the shelf."""

    def run(task, *words):
        capsys.readouterr()
        succeed("score", "--model", shelf() / "member", "--task", task, "--disable-tqdm", *words)
        return json.loads(capsys.readouterr().out)

    return run


def test_the_split_is_chosen(scored):
    task = shelf() / "task.csv"
    counts = {split: scored(task, "--split", split)["texts"] for split in ("train", "validation", "test", "all")}
    assert counts == {"train": 56, "validation": 12, "test": 12, "all": 80}
    assert scored(task)["texts"] == 80
    found = scored(task, "--split", "test")["metrics"]["accuracy"]
    assert found == pytest.approx(results_of(shelf() / "member")["test"]["accuracy"])


def test_a_folder_as_output_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tlm_hf.evaluation.scoring.read_config", None)
    words = ("--task", shelf() / "task.csv", "--output", tmp_path)
    assert tmp_path.name in refused(capsys, "score", "--model", shelf() / "member", *words)
