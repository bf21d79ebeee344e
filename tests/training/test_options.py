"""Options of `tlm pretrain` and `tlm finetune`: every field of TrainingArguments, and what it does."""

import dataclasses
import json
import re

import datasets
import pytest
import torch
from helpers_commands import (
    TINY_FINETUNING,
    TINY_PRETRAINING,
    assert_equal_weights,
    refused,
    results_of,
    shelf,
    succeed,
)
from helpers_release import TOKEN, api, local_hub
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, TrainingArguments

from tlm_hf.commands.main import main
from tlm_hf.errors import UserError
from tlm_hf.training import finetune_options, pretrain_options
from tlm_hf.training import pretrain as pretraining
from tlm_hf.training.finetune import finetune
from tlm_hf.training.options import REFUSED
from tlm_hf.training.pretrain import pretrain

COMMANDS = {"pretrain": pretrain_options.GROUPS, "finetune": finetune_options.GROUPS}
ONE_STEP = {"size": "smoke", "max_steps": 1, "disable_tqdm": True}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_of_training_arguments_is_an_option(command):
    names = {entry.name for entry in dataclasses.fields(TrainingArguments) if entry.init}
    assert {each.name for group in COMMANDS[command] for each in dataclasses.fields(group)} > names
    assert set(REFUSED) <= names


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_each_option_once_in_groups(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    options = re.findall(r"^  (--[a-z0-9-]+)", shown, re.M)
    assert len(options) == len(set(options))
    assert set(options) >= {"--seed", "--optim", "--push-to-hub", "--hub-model-id", "--learning-rate", "--config"}
    assert "--save-only-model" not in options
    assert "(default: )" not in shown


@pytest.mark.parametrize("name", REFUSED)
def test_what_exact_resume_needs_fixed_is_refused_by_name(name):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is refused"):
        pretrain(output_dir="out", **{name: "x"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--learning-rat", 1), "did you mean --learning-rate?"),
        (("--members", 2), "did you mean --num-members?"),
        (("--report-to", "nothing-known"), "nothing-known"),
        (("--batch-size", 8, "--per-device-train-batch-size", 8), "--per-device-train-batch-size"),
        (("--schedule", "paper", "--lr-scheduler-type", "cosine"), "--lr-scheduler-type is refused"),
        (("--schedule", "paper", "--warmup-steps", "0.1"), "--warmup-steps is refused"),
        (("--mlm-probability", "0"), "--mlm-probability is 0.0"),
        (("--eval-strategy", "epoch"), "--eval-strategy is refused"),
        (("--label-smoothing-factor", 0.1), "--label-smoothing-factor is refused (it has no effect"),
        (("--model", "encoder", "--vocab-size", 100), "--vocab-size is refused (it is of new weights"),
        (("--save-steps", 0.5), "--save-steps is 0.5"),
        (("--num-train-epochs", "nan"), "--num-train-epochs is nan: give a value from 0"),
        (("--max-steps", 10**20), f"--max-steps is {10**20}: give a value from 1"),
        (("--max-length", 10**9), "--max-length is 1000000000: training would need"),
        (("--vocab-size", 10**9), "--vocab-size is 1000000000: training would need"),
        # 10^12 texts of 64 tokens, for each (8 x 256 + 0.2 x 8,000) values of 4 bytes
        (("--batch-size", 10**12, "--bf16", "false"), "--batch-size is 1000000000000: training would need 869,750,977"),
        (("--mlm-probability", 1e-9), "no token would be masked"),
        (("--model", "encoder", "--cased"), "--cased is refused (it is of new weights"),
        (("--tokenizer", "vocab.txt", "--keep-accents"), "--keep-accents is refused"),
    ],
)
def test_refusals(capsys, tmp_path, words, said):
    assert said in refused(capsys, "pretrain", "--corpus", "x.txt", "--output-dir", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


WRITTEN = ("--encoding", "cp1252", "--quoting", "none")


def test_every_option_that_chooses_texts_reaches_the_loader(tmp_path, capsys, monkeypatch):
    options = {
        "num_texts": ("num_texts", 70), "validation_texts": ("validation_texts", 6), "text_unit": ("unit", "paragraph"),
        "corpus_config": ("config", "40k"), "corpus_revision": ("revision", "v1"), "data_root": ("root", "texts"),
        "text_column": ("text_column", "body"), "subset_seed": ("seed", 9),
    }  # fmt: skip

    def load(name, **given):
        written = given.pop("written")
        assert (written.encoding, written.quoting) == ("cp1252", "none")
        assert (name, given) == ("owner/corpus", dict(options.values()))
        raise UserError("All of them came here: stop.")

    monkeypatch.setattr(pretraining, "load_corpus", load)
    words = [word for name, (_, value) in options.items() for word in (f"--{name}", value)]
    said = refused(capsys, "pretrain", "--corpus", "owner/corpus", *words, *WRITTEN, "--output-dir", tmp_path / "out")
    assert "All of them came here" in said


def test_a_file_of_options_is_the_command_line_and_the_command_line_wins(capsys, tmp_path):
    corpus = shelf() / "corpus.txt"
    file = tmp_path / "options.yaml"
    file.write_text(f"dataset_name: {corpus}\nsize: smoke\nmax-steps: 9\neval_steps: 3\nlearning_rate: 1e-3\n")
    succeed("pretrain", "--config", file, "--max_steps", 6, "--save-steps", 3, "--output_dir", tmp_path / "a")
    words = ("--corpus", corpus, "--learning-rate", 0.001, *TINY_PRETRAINING)
    succeed("pretrain", *words, "--output-dir", tmp_path / "b")
    assert_equal_weights(tmp_path / "a", tmp_path / "b")
    file.write_text("learning_rates: 3\n")
    said = refused(capsys, "pretrain", "--config", file, "--output-dir", tmp_path / "c")
    assert "learning_rates': did you mean --learning-rate?" in said


def test_python_takes_the_same_names_and_data_sets_in_memory(tmp_path):
    lines = (shelf() / "corpus.txt").read_text().splitlines()
    corpus = datasets.Dataset.from_dict({"text": lines})
    options = {"size": "smoke", "max_steps": 6, "eval_steps": 3, "save_steps": 3, "disable_tqdm": True}
    results = pretrain(corpus=corpus, output_dir=str(tmp_path / "encoder"), **options)
    assert results["corpus"] == "a Dataset in memory"
    assert_equal_weights(tmp_path / "encoder", shelf() / "encoder")
    with pytest.raises(UserError, match="did you mean --max-steps"):
        pretrain(corpus=corpus, output_dir=str(tmp_path / "other"), max_step=3)
    rows = datasets.load_dataset("csv", data_files=str(shelf() / "task.csv"), split="train")
    found = finetune(
        model_name_or_path=str(shelf() / "encoder"), task=rows, output_dir=str(tmp_path / "tuned"), max_seq_length=16,
        num_train_epochs=1, disable_tqdm=True,
    )  # fmt: skip
    assert found["task"] == "a Dataset in memory"
    assert json.loads((tmp_path / "tuned" / "tokenizer_config.json").read_text())["model_max_length"] == 16


def test_options_of_the_optimizer_reach_it(tmp_path):
    """Oracle: after one step of plain SGD at a constant rate each weight has moved by rate times its gradient."""
    common = {"corpus": str(shelf() / "corpus.txt"), **ONE_STEP, "lr_scheduler_type": "constant", "max_grad_norm": 0}
    common |= {"optim": "sgd", "weight_decay": 0.0, "report_to": "none", "run_name": "one"}
    moved = {}
    for rate in (0.0, 0.01, 0.02):
        folder = tmp_path / str(rate)
        assert pretrain(output_dir=str(folder), learning_rate=rate, **common)["settings"]["optim"] == "sgd"
        moved[rate] = load_file(folder / "model.safetensors")
    for name, start in moved[0.0].items():
        steps = [moved[rate][name] - start for rate in (0.01, 0.02)]
        torch.testing.assert_close(2 * steps[0], steps[1], atol=1e-6, rtol=1e-3)
    assert any((moved[0.01][name] - start).abs().max() > 1e-4 for name, start in moved[0.0].items())


def test_batch_size_by_device_and_warm_up_by_steps(tmp_path):
    common = {"corpus": str(shelf() / "corpus.txt"), **ONE_STEP, "max_steps": 4, "logging_steps": 1, "bf16": False}
    ours = pretrain(output_dir=str(tmp_path / "a"), batch_size=8, warmup_steps=0.5, **common)
    theirs = pretrain(
        output_dir=str(tmp_path / "b"), per_device_train_batch_size=4, gradient_accumulation_steps=2, warmup_steps=2,
        **common,
    )  # fmt: skip
    rates = [[row["learning_rate"] for row in found["history"] if "loss" in row] for found in (ours, theirs)]
    assert rates[0] == rates[1]
    assert theirs["settings"]["batch_size"] == ours["settings"]["batch_size"] == 8
    assert theirs["held_out"]["loss"] == pytest.approx(ours["held_out"]["loss"], abs=1e-3)


def test_pretraining_continues_an_existing_encoder(tmp_path):
    """A stock BERT goes in and comes out; its tokenizer does not change, and the loss on its text falls."""
    torch.manual_seed(0)
    tokenizer = shelf() / "encoder" / "tokenizer.json"
    vocab_size = len(json.loads(tokenizer.read_text())["model"]["vocab"])
    config = BertConfig(
        vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=48,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path / "stock")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "stock" / name).write_bytes((shelf() / "encoder" / name).read_bytes())
    words = ("--corpus", shelf() / "corpus.txt", "--learning-rate", 0.01, "--max-steps", 12, "--eval-steps", 1)
    succeed("pretrain", "--model", tmp_path / "stock", *words, "--output-dir", tmp_path / "adapted", "--disable-tqdm")
    results = results_of(tmp_path / "adapted")
    losses = [row["eval_loss"] for row in results["history"] if "eval_loss" in row]
    assert losses[-1] < losses[0] - 0.3
    assert (tmp_path / "adapted" / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    model, report = BertForMaskedLM.from_pretrained(tmp_path / "adapted", output_loading_info=True)
    assert not report["missing_keys"]
    assert (model.config.num_hidden_layers, model.config.hidden_dropout_prob) == (2, 0.1)
    assert {"weights", "tokenizer_sha256"} <= results["settings"].keys()
    assert "recipe" not in results["settings"]


def test_finished_folders_are_pushed(tmp_path, monkeypatch):
    with local_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        words = ("--model", shelf() / "encoder", "--task", shelf() / "task.csv", "--output-dir", tmp_path / "run")
        words = (*words, "--push-to-hub", "--hub-model-id", "tiny-lab/tuned", "--hub-token", TOKEN)
        succeed("finetune", *words, *TINY_FINETUNING)
        files = set(api(hub).list_repo_files("tiny-lab/tuned"))
    assert {"config.json", "model.safetensors", "tokenizer.json", "results.json"} <= files
    assert "run.json" not in files
    assert TOKEN not in (tmp_path / "run" / "run.json").read_text()
