"""`scripts/search.py`: one line a variant, with the numbers of the runs."""

import json
import runpy
from pathlib import Path

from helpers_commands import write_corpus

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "search.py"


def test_each_variant_is_trained_and_said(tmp_path, capsys):
    write_corpus(tmp_path / "corpus.txt")
    options = f"--corpus {tmp_path / 'corpus.txt'} --num-texts 60 --validation-texts 20 --size smoke --max-steps 2"
    tuning = "--task docstrings --train-per-label 4 --validation-per-label 2 --test-per-label 2 --num-train-epochs 1"
    words = ["--output-dir", str(tmp_path / "runs"), f"--pretrain={options}", f"--finetune={tuning}"]
    main = runpy.run_path(str(SCRIPT))["main"]
    main([*words, "--variants", "", "--learning-rate 1e-2"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation accuracy" in line]
    assert len(lines) == 2
    for line, folder in zip(lines, sorted((tmp_path / "runs").iterdir()), strict=True):
        held_out, tuned = (
            json.loads((folder / name / "results.json").read_text()) for name in ("encoder", "classifier")
        )
        assert f"loss {held_out['held_out']['loss']:.3f}" in line
        assert f"accuracy {tuned['validation']['accuracy']:.3f}" in line
    assert "learning-rate" in lines[1]
