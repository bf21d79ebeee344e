"""The benchmark of frozen committees at `smoke` size. Nothing here asserts a time."""

import json

import pytest
from helpers_commands import refused, succeed

WORDS = ("benchmark", "frozen", "--repeats", "1", "--num-threads", "1")
PRECISION = {"float32": 1e-5, "float16": 2e-2, "int8": 0.3}


def test_every_side_is_a_row_and_answers_as_the_committee(tmp_path):
    file = tmp_path / "f.json"
    succeed(*WORDS, "--committees", "smoke:1", "smoke:3", "--batch-size", "1", "4", "--json", str(file))
    rows = json.loads(file.read_text())["rows"]
    sides = {(row["model"], row["runtime"], row["precision"]) for row in rows}
    frozen = {("frozen", runtime, precision) for runtime in ("torch", "numpy") for precision in PRECISION}
    frozen |= {("frozen", "onnxruntime", precision) for precision in ("float32", "int8")}
    assert sides == {("bert-6", "torch", "float32"), ("committee", "torch", "float32"), *frozen}
    assert len(rows) == 4 * len(sides)
    assert {(row["size"], row["members"], row["batch_size"]) for row in rows} == {
        ("smoke", members, texts) for members in (1, 3) for texts in (1, 4)
    }
    for row in rows:
        assert row["ms"] > 0
        if row["model"] == "bert-6":
            assert row["ratio"] == 1
        else:
            assert row["max_abs_diff"] <= PRECISION[row["precision"]]
        assert ("limit_ms" in row) == (row["model"] == "frozen")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--committees", "laptop"), "SIZE:MEMBERS"),
        (("--committees", "huge:1"), "huge"),
        (("--batch-size", "0"), "--batch-size is [0]"),
        (("--precisions", "int4"), "int4"),
    ],
)
def test_bad_options_are_refused(capsys, words, said):
    assert said in refused(capsys, *WORDS, *words)
