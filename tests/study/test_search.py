"""`scripts/search.py`: what is written is what the runs say, and a finished run is not repeated."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from helpers_commands import write_corpus

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "search.py"


def test_variants_are_judged_by_their_tasks_and_the_search_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_corpus(Path("corpus.txt"))
    texts = [f"{word} {number} river\n" for number in range(12) for word in ("0,good fine", "1,bad poor")]
    Path("reviews.csv").write_text("label,text\n" + "".join(texts))
    main = runpy.run_path(str(SCRIPT))["main"]
    sizes = {f"{split}_per_label": 4 for split in ("train", "validation", "test")}
    main.__globals__["TASKS"], main.__globals__["TRIAL"] = {"reviews.csv": (1e-3, sizes)}, 6
    options = "--corpus corpus.txt --num-texts 60 --validation-texts 20 --size smoke --batch-size 8"
    words = ["--results", str(tmp_path / "results.json"), "--output-dir", str(tmp_path / "runs"), "--seeds", "0"]
    words += ["--minutes", "0.001", f"--pretrain={options}"]
    main([*words, "--variants", ""])
    first = json.loads((tmp_path / "results.json").read_text())["runs"]
    main([*words, "--variants", "", "--initialization counts"])
    with pytest.raises(SystemExit):  # the folder's runs are of other options
        main([*words[:-1], f"--pretrain={options} --seed 1", "--variants", ""])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["runs"][:1] == first
    assert [run["variant"] for run in results["runs"]] == ["", "--initialization counts"]
    accuracies = []
    for run, name in zip(results["runs"], ("as-given", "initialization_counts"), strict=True):
        folder = tmp_path / "runs" / name / "0.001-minutes-0"
        held_out = json.loads((folder / "encoder" / "results.json").read_text())
        tuned = json.loads((folder / "reviews.csv" / "results.json").read_text())
        assert (run["loss"], run["steps"]) == (held_out["held_out"]["loss"], held_out["steps"])
        assert run["reviews.csv"] == tuned["validation"]["accuracy"]
        assert run["minutes used"] > 0
        accuracies.append(run["reviews.csv"])
    gain = float(results["table"][1]["gain"].split()[0])
    assert np.isclose(gain, 100 * (accuracies[1] - accuracies[0]), atol=0.051)
    assert results["table"][0]["gain"] == ""
    assert results["table"][1]["gain reviews.csv"] == results["table"][1]["gain"]  # of a single task
    assert "initialization counts" in capsys.readouterr().out
