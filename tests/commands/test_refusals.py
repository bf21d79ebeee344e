"""Bad input through the command line: exit code 2, one sentence that names the culprit, nothing written or changed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers_commands import (
    ROOT,
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
from safetensors.torch import load_file, save_file

from tlm_hf.commands.main import main
from tlm_hf.commands.table import COMMANDS

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LARGER_VOCABULARY = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(2000))]) + "\n"


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


def changed(home: Path, tmp_path: Path, name: str, source: str = "encoder", **fields: object) -> Path:
    """A copy of a run on the shelf with other fields in its config.json."""
    folder = tmp_path / name
    shutil.copytree(home / source, folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, **fields}), encoding="utf-8")
    return folder


class TestPretrain:
    def test_corpus(self, say, tmp_path):
        files = {"empty.txt": "", "blank.txt": "\n\n", "numbers.csv": "text\n1\n2\n", "short.txt": "a b\nc d\ne f\n"}
        for name, content in files.items():
            (tmp_path / name).write_text(content, encoding="utf-8")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "picture.png").write_bytes(b"x")
        for name in (*files, "folder", "missing.txt", "missing"):
            assert name in say("pretrain", "--corpus", tmp_path / name, *TINY_PRETRAINING)
        assert "'body'" in say("pretrain", "--corpus", tmp_path / "short.txt", "--text-column", "body")
        sentence = say("pretrain", "--corpus", tmp_path / "short.txt", "--num-texts", 9, *TINY_PRETRAINING)
        assert "9 texts" in sentence

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            *(
                ("--recipe", "bert-7"),
                ("--size", "huge"),
                ("--report-to", "nothing-known"),
                ("--tokenizer", "missing/"),
            ),
            *((name, 0) for name in ("--hidden-size", "--num-attention-heads", "--num-hidden-layers", "--max-steps")),
            *((name, 0) for name in ("--batch-size", "--num-texts", "--save-steps", "--num-threads")),
            *(("--max-length", 4), ("--vocab-size", 5), ("--vocab-size", -1), ("--hidden-size", -64)),
            *(("--learning-rate", -1), ("--warmup-share", 3), ("--dropout", 1.5), ("--seed", -1)),
            *(("--mlm-probability", 1), ("--initializer-range", -1), ("--learning-rate", "nan")),
        ],
    )
    def test_options(self, say, home, option, value):
        words = ("pretrain", "--corpus", home / "corpus.txt", "--size", "smoke", "--max-steps", 2)
        sentence = say(*words, option, value)
        assert str(value).rstrip("/") in sentence
        if option in ("--hidden-size", "--seed", "--warmup-share", "--max-length"):
            assert option in sentence

    def test_shapes(self, say, home):
        words = ("pretrain", "--corpus", home / "corpus.txt", *TINY_PRETRAINING)
        sentence = say(*words, "--hidden-size", 100, "--num-attention-heads", 3)
        assert "100" in sentence
        assert "3 attention heads" in sentence
        assert "multiple of 5" in say(*words, "--gradient-accumulation-steps", 5)
        assert "--vocab-size" in say(*words, "--tokenizer", home / "encoder", "--vocab-size", 500)

    def test_command_line(self, say, home):
        words = ("pretrain", "--corpus", home / "corpus.txt")
        assert "'--no-such-option'" in say(*words, "--no-such-option", 1)
        assert "'many'" in say(*words, "--max-steps", "many")

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
        rows = labelled_rows(20)
        bad = {
            "one-class.csv": [{**row, "label": "farm"} for row in rows],
            "gaps.csv": [{**row, "label": row["label"] if index > 4 else None} for index, row in enumerate(rows)],
            "no-text.csv": [{**row, "text": " "} for row in rows],
            "pair.csv": rows[:2],
        }
        for name, table in bad.items():
            assert name in say(*words, write_csv(tmp_path / name, table)), name
        assert "5 of 40 rows" in say(*words, tmp_path / "gaps.csv")
        assert "1 class" in say(*words, tmp_path / "one-class.csv")
        assert "missing.csv" in say(*words, tmp_path / "missing.csv")
        assert "'kind'" in say(*words, home / "task.csv", "--label-column", "kind")
        assert "'body'" in say(*words, home / "task.csv", "--text-column", "body")
        assert "500 train texts" in say(*words, home / "task.csv", "--train-per-label", 500)

    def test_damaged_models(self, say, home, tmp_path):
        words = ("finetune", "--task", home / "task.csv", *TINY_FINETUNING, "--model")
        weightless = changed(home, tmp_path, "weightless")
        (weightless / WEIGHTS).unlink()
        lacking, tensors = changed(home, tmp_path, "lacking"), load_file(home / "encoder" / WEIGHTS)
        lost = "bert.encoder.layer.0.output.dense.weight"
        save_file({name: tensors[name] for name in tensors if name != lost}, lacking / WEIGHTS, {"format": "pt"})
        shapes = ({"hidden_size": 128}, {"max_position_embeddings": 64}, {"hidden_size": "big"}, {"vocab_size": 300})
        folders = [changed(home, tmp_path, f"shape-{number}", **fields) for number, fields in enumerate(shapes)]
        for folder in (weightless, lacking, *folders):
            assert folder.name in say(*words, folder)
        assert lost in say(*words, lacking)
        assert "missing" in say(*words, tmp_path / "missing")
        assert "committee" in say(*words, home / "committee")
        assert "--model" in say(*words[:-1])

    def test_tokenizer_of_another_size(self, say, home, tmp_path):
        folder = changed(home, tmp_path, "mixed-up")
        (folder / "tokenizer.json").unlink()
        words = ("finetune", "--task", home / "task.csv", *TINY_FINETUNING, "--model", folder)
        assert "mixed-up" in say(*words)
        (folder / "vocab.txt").write_text(LARGER_VOCABULARY, encoding="utf-8")
        assert "2005 tokens" in say(*words)

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--batch-size", 0), ("--num-train-epochs", 0), ("--dropout", 2), ("--seed", -1), ("--learning-rate", -0.1)],
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
        labels = changed(home, tmp_path, "renamed", source="member", id2label={"0": "ox", "1": "cod"})
        assert "renamed" in say(*words, "--members", home / "member", labels)
        other = write_csv(tmp_path / "other.csv", labelled_rows(20, classes=("farm", "school")))
        sentence = say("committee", "--members", home / "member", "--task", other, "--disable-tqdm")
        assert "['farm', 'school']" in sentence

    def test_other_tokenizer(self, say, home, tmp_path):
        folder = changed(home, tmp_path, "stranger", source="member")
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        words = tokenizer["model"]["vocab"]
        words["the"], words["a"] = words["a"], words["the"]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        members = ("--members", home / "member", folder)
        assert "stranger" in say("committee", *members, "--task", home / "task.csv", "--disable-tqdm")

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
        assert "--texts or --input" in say(*words)
        assert "--texts or --input" in say(*words, "--texts", "a", "--input", table)
        assert "line 3" in say(*words, "--input", table, "--on-empty", "error")
        assert "'body'" in say(*words, "--input", table, "--text-column", "body")
        assert "missing.csv" in say(*words, "--input", tmp_path / "missing.csv")
        assert "'.xls'" in say(*words, "--texts", "a", "--output", tmp_path / "out.xls")
        assert "missing" in say(*words, "--texts", "a", "--output", tmp_path / "missing" / "out.csv")
        assert "--batch-size" in say(*words, "--texts", "a", "--batch-size", 0)
        assert "--model" in say("predict", "--texts", "a")
        assert "without a classifier" in say("predict", "--texts", "a", "--model", home / "encoder")
        folder = changed(home, tmp_path, "mixed-up", source="member")
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text(LARGER_VOCABULARY, encoding="utf-8")
        assert "2005 tokens" in say("predict", "--texts", "a", "--model", folder)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed-up", "table.csv"]

    def test_score(self, say, home, tmp_path):
        words = ("score", "--disable-tqdm", "--model", home / "member")
        assert "--task or --text" in say(*words)
        assert "is a classifier" in say(*words, "--text", home / "corpus.txt")
        other = write_csv(tmp_path / "other.csv", labelled_rows(20, classes=("farm", "school")))
        assert "farm, school" in say(*words, "--task", other)
        assert "missing" in say(*words, "--task", home / "task.csv", "--output", tmp_path / "missing" / "out.json")
        encoder = ("score", "--disable-tqdm", "--model", home / "encoder")
        (tmp_path / "tiny.txt").write_text("☃\n☃ ☃\n", encoding="utf-8")  # unknown tokens are never masked
        assert "tiny.txt" in say(*encoder, "--text", tmp_path / "tiny.txt")


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
    done = run(ROOT / "scripts" / "finetune.py", *words, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "absent" in check_error(done.stderr)
    assert not (tmp_path / "out").exists()


def test_torch_threads_are_left_alone(home, capsys):
    before = torch.get_num_threads()
    refused(capsys, "pretrain", "--corpus", home / "corpus.txt", "--num-threads", 0, "--output-dir", home / "never")
    assert torch.get_num_threads() == before
