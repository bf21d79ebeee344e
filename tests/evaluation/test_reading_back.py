"""A member's split is known, a user's file is not overwritten."""

import json

import pytest

from tlm_hf.errors import UserError
from tlm_hf.evaluation.predict import PredictArguments, predict_command
from tlm_hf.loading import trained_on_another_split


def test_predict_does_not_overwrite_its_input(tmp_path):
    (tmp_path / "a.csv").write_text("text\none\n")
    with pytest.raises(UserError, match="input itself"):
        predict_command(PredictArguments(model="m", input=str(tmp_path / "a.csv"), output=str(tmp_path / "a.csv")))
    assert (tmp_path / "a.csv").read_text().split() == ["text", "one"]


def test_the_split_of_a_fine_tuned_folder_is_known(tmp_path):
    assert not trained_on_another_split(str(tmp_path), "a")
    (tmp_path / "results.json").write_text(json.dumps({"settings": {"task_sha256": "a"}}))
    assert not trained_on_another_split(str(tmp_path), "a")
    assert trained_on_another_split(str(tmp_path), "b")
