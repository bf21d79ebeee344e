"""Bad input through the command line: exit code 2, one sentence that names the culprit, nothing written or changed."""

import errno
import shutil
import sys

import pytest
import yaml
from helpers_commands import (
    TINY_FINETUNING,
    TINY_PRETRAINING,
    check_error,
    contents,
    labelled_rows,
    refused,
    run,
    shelf,
    succeed,
    write_corpus,
    write_csv,
)

from tlm_hf.commands.common import run_command
from tlm_hf.commands.main import main
from tlm_hf.commands.table import COMMANDS
from tlm_hf.runs.atomic_files import read_yaml


@pytest.fixture(scope="module")
def home():
    return shelf()


@pytest.fixture
def say(home, tmp_path, capsys):
    """Function `(*words)` that asserts a refusal which leaves the shelf and the output folder `out` as they were."""

    def refuse(*words: object) -> str:
        output = tmp_path / "out"
        before = contents(home), contents(output), output.exists()
        sentence = refused(capsys, *words, *(() if words[0] in ("score", "predict") else ("--output-dir", output)))
        assert (contents(home), contents(output), output.exists()) == before
        return sentence

    return refuse


class TestPretrain:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            *(("--recipe", "bert-7"), ("--size", "huge"), ("--tokenizer", "missing/"), ("--max-steps", "many")),
            *((name, 0) for name in ("--hidden-size", "--num-attention-heads", "--num-hidden-layers", "--max-steps")),
            *((name, 0) for name in ("--batch-size", "--num-texts", "--save-steps", "--num-threads")),
            *(("--max-length", 4), ("--vocab-size", 5), ("--vocab-size", -1), ("--hidden-size", -64)),
            *(("--learning-rate", -1), ("--warmup-steps", -1), ("--dropout", 1.5), ("--seed", -1)),
            *(("--mlm-probability", 1), ("--initializer-range", -1), ("--corpus", "missing.txt")),
        ],
    )
    def test_options(self, say, home, option, value):
        words = ("pretrain", "--corpus", home / "corpus.txt", "--size", "smoke", "--max-steps", 2)
        sentence = say(*words, option, value)
        assert str(value).rstrip("/") in sentence
        if option in ("--hidden-size", "--seed", "--warmup-steps", "--max-length"):
            assert option in sentence

    def test_shapes(self, say, home):
        words = ("pretrain", "--corpus", home / "corpus.txt", *TINY_PRETRAINING)
        sentence = say(*words, "--hidden-size", 100, "--num-attention-heads", 3)
        assert "100" in sentence
        assert "3 attention heads" in sentence
        assert "multiple of 5" in say(*words, "--gradient-accumulation-steps", 5)
        assert "--vocab-size" in say(*words, "--tokenizer", home / "encoder", "--vocab-size", 500)

    def test_output_folder_of_others(self, home, tmp_path, capsys):
        words = ("pretrain", "--corpus", home / "corpus.txt", *TINY_PRETRAINING)
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        (foreign / "thesis.doc").write_text("years of work", encoding="utf-8")
        before = contents(home), contents(tmp_path)
        assert "foreign" in refused(capsys, *words, "--output-dir", foreign)
        assert "thesis.doc" in refused(capsys, *words, "--output-dir", foreign / "thesis.doc")
        sentence = refused(capsys, *words, "--output-dir", home / "encoder", "--learning-rate", 1e-4)
        assert "learning_rate 0.002 there and 0.0001 here" in sentence
        other = write_corpus(tmp_path / "other.txt", seed=5)
        before = before[0], contents(tmp_path)
        sentence = refused(capsys, "pretrain", "--corpus", other, *TINY_PRETRAINING, "--output-dir", home / "encoder")
        assert "corpus" in sentence
        assert "another run" in refused(capsys, *words, "--output-dir", home / "member")
        assert (contents(home), contents(tmp_path)) == before


class TestFinetune:
    def test_task(self, say, home, tmp_path):
        words = ("finetune", "--model", home / "encoder", *TINY_FINETUNING, "--task")
        rows = [{**row, "label": "farm"} for row in labelled_rows(20)]
        assert "one class" in say(*words, write_csv(tmp_path / "one-class.csv", rows))
        assert "missing.csv" in say(*words, tmp_path / "missing.csv")
        assert "'kind'" in say(*words, home / "task.csv", "--label-column", "kind")
        assert "500 train texts" in say(*words, home / "task.csv", "--train-per-label", 500)
        words = ("finetune", "--task", home / "task.csv", *TINY_FINETUNING)
        assert "--model" in say(*words)
        assert "missing" in say(*words, "--model", tmp_path / "missing")
        assert "committee" in say(*words, "--model", home / "committee")
        assert "--lora-rank" in say(*words, "--model", home / "encoder", "--from-scratch", "--lora-rank", 2)

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--batch-size", 0), ("--num-train-epochs", 0), ("--dropout", 2), ("--seed", -1), ("--lora-rank", 0)],
    )
    def test_options(self, say, home, option, value):
        assert option in say("finetune", "--model", home / "encoder", "--task", home / "task.csv", option, value)

    def test_output_folder_of_another_run(self, home, capsys):
        words = ("finetune", "--model", home / "encoder", "--task", home / "task.csv", *TINY_FINETUNING)
        before = contents(home)
        assert "seed 0 there and 7 here" in refused(capsys, *words, "--seed", 7, "--output-dir", home / "member")
        assert "kind 'pretrain' there and 'finetune' here" in refused(capsys, *words, "--output-dir", home / "encoder")
        assert contents(home) == before


class TestCommittee:
    def test_members(self, say, home, tmp_path):
        words = ("committee", "--task", home / "task.csv", "--disable-tqdm")
        assert "--members" in say(*words)
        assert "encoder" in say(*words, "--members", home / "member", home / "encoder")
        assert "committee" in say(*words, "--members", home / "committee", home / "member")
        assert "missing" in say(*words, "--members", home / "member", tmp_path / "missing")
        other = write_csv(tmp_path / "other.csv", labelled_rows(20, classes=("farm", "school")))
        sentence = say("committee", "--members", home / "member", "--task", other, "--disable-tqdm")
        assert "['farm', 'school']" in sentence

    def test_own_data(self, say, home, tmp_path):
        words = ("train-committee", home / "task.csv")
        assert "'body'" in say(*words, "--text-column", "body")
        for option in ("--num-members", "--workers", "--pretrain-steps", "--num-train-epochs"):
            assert option in say(*words, option, 0)
        assert "--learning-rate" in say(*words, "--learning-rate", -1)
        assert "--max-length" in say(*words, "--max-length", 10**9)
        assert "--cased" in say(*words, "--encoder", home / "encoder", "--cased")
        assert "missing.txt" in say(*words, "--encoder", "none", "--corpus", tmp_path / "missing.txt")
        assert "missing" in say(*words, "--encoder", tmp_path / "missing")
        assert "committee" in say(*words, "--encoder", home / "committee")
        other = tmp_path / "other"
        corpus = write_corpus(tmp_path / "other.txt", texts=60, seed=8)
        succeed("pretrain", "--corpus", corpus, "--output-dir", other, *TINY_PRETRAINING)
        assert "another tokenizer" in say(*words, "--encoder", home / "encoder", other)


class TestPredictAndScore:
    def test_predict(self, say, home, tmp_path):
        words = ("predict", "--disable-tqdm", "--model", home / "member")
        table = write_csv(tmp_path / "table.csv", [{"text": "a cow"}, {"text": None}])
        assert "needs either --texts or --input" in say(*words)
        assert "not both" in say(*words, "--texts", "a", "--input", table)
        assert "line 3" in say(*words, "--input", table, "--on-empty", "error")
        assert "'.xls'" in say(*words, "--texts", "a", "--output", tmp_path / "out.xls")
        assert "missing" in say(*words, "--texts", "a", "--output", tmp_path / "missing" / "out.csv")
        if sys.platform == "linux":  # where root may not write either
            assert "cannot be written (" in say(*words, "--texts", "a", "--output", "/proc/out.csv")
        assert "--batch-size" in say(*words, "--texts", "a", "--batch-size", 0)
        assert "--model" in say("predict", "--texts", "a")
        assert "without a classifier" in say("predict", "--texts", "a", "--model", home / "encoder")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv"]

    def test_score(self, say, home, tmp_path):
        words = ("score", "--disable-tqdm", "--model", home / "member")
        assert "--task or --text" in say(*words)
        assert "is a classifier" in say(*words, "--text", home / "corpus.txt")
        assert "missing" in say(*words, "--task", home / "task.csv", "--output", tmp_path / "missing" / "out.json")
        encoder = ("score", "--disable-tqdm", "--model", home / "encoder")
        (tmp_path / "tiny.txt").write_text("☃\n☃ ☃\n", encoding="utf-8")  # unknown tokens are never masked
        assert "tiny.txt" in say(*encoder, "--text", tmp_path / "tiny.txt")


def test_an_options_file_at_home_and_an_option_twice_in_it(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "options.yaml").write_text("max_steps: 2\nseed: 1\nmax_steps: 3\n")
    assert "a section has 'max_steps' twice" in refused(capsys, "pretrain", "--config", "~/options.yaml")
    shutil.copytree(home / "encoder", tmp_path / "encoder")
    assert "missing.txt" in refused(capsys, "score", "--model", "~/encoder", "--text", "missing.txt")


def test_anchors_and_merges_are_not_keys_that_stand_twice(tmp_path):
    text = "base: &b {x: 1}\nc: {a: &a {<<: *b, x: 2}}\nd: {<<: *a}\ne: {<<: *a, <<: *b, 1: 1, '1': 2}\n"
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml") == yaml.safe_load(text)


def test_a_place_that_cannot_be_written_is_named(capsys):
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device", "outputs/run.json")

    with pytest.raises(SystemExit, match="2"):
        run_command(fail)
    assert capsys.readouterr().err.startswith("error: outputs/run.json: No space left on device (")


def test_unknown_command(capsys):
    sentence = refused(capsys, "frobnicate")
    assert "'frobnicate'" in sentence
    assert "train-committee" in sentence


def test_every_command_of_the_table_shows_its_options(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as leaving:
            main([*name.split(), "--help"])
        assert leaving.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: tlm {name} ")


def test_the_real_command_line(home, tmp_path):
    """A process as a user starts it; every other test calls the same function in this process."""
    words = ("--model", tmp_path / "absent", "--task", home / "task.csv", "--output-dir", "out")
    done = run("-m", "tlm_hf.commands.main", "finetune", *words, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "absent" in check_error(done.stderr)
    assert not (tmp_path / "out").exists()
