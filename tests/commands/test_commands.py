"""The commands end to end at smoke size on a small text: each one's output is what the next one takes."""

import html
import json
import subprocess
import sys
from unittest import mock

import datasets
import joblib
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from helpers_commands import (
    ENVIRONMENT,
    TINY_FINETUNING,
    TINY_PRETRAINING,
    contents,
    labelled_rows,
    refused,
    results_of,
    shelf,
    succeed,
    write_csv,
)
from huggingface_hub import ModelCard
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

from tlm_hf.data.corpora import load_corpus
from tlm_hf.data.masking import HELD_OUT_STREAM, MaskingCollator
from tlm_hf.data.tasks import load_task
from tlm_hf.runtime import load
from tlm_hf.training.train_committee import train_committee
from tlm_hf.training.trainer import RunTrainer


def stock_probabilities(folder, texts) -> tuple[list[str], np.ndarray]:
    """Labels and probabilities (texts, classes) from transformers' pipeline on the folder."""
    classify = transformers.pipeline("text-classification", model=str(folder), top_k=None, truncation=True)
    names = [classify.model.config.id2label[index] for index in range(classify.model.config.num_labels)]
    rows = [{entry["label"]: entry["score"] for entry in classify([text])[0]} for text in texts]
    return names, np.array([[row[name] for name in names] for row in rows])


def test_a_reader_that_has_enough_ends_a_command_quietly():
    program = "from tlm_hf.commands.common import run_command; run_command(lambda: {'a': 'line\\n' * 99999}, ['a'])"
    command = f'"{sys.executable}" -c "{program}" | head -n 1'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "line\n", "")


def test_pretraining_leaves_a_stock_bert():
    encoder, results = shelf() / "encoder", results_of(shelf() / "encoder")
    model, report = transformers.BertForMaskedLM.from_pretrained(encoder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    assert len(tokenizer) == model.config.vocab_size == results["vocab_size"]
    assert results["parameters"] == model.num_parameters()
    assert results["steps"] == results["history"][-1]["step"] == 6
    assert results["texts"] == 108
    # A model that says nothing about the text pays log(vocabulary); 6 steps cannot have taught it much either.
    assert results["held_out"]["loss"] == pytest.approx(np.log(len(tokenizer)), rel=0.3)
    assert results["command"].split()
    assert str(shelf()) not in json.dumps(results), "a path of this machine stands in the results"
    assert not list(encoder.glob("checkpoint-*"))
    assert not (encoder / ".partial").exists()


def test_results_of_finetuning_are_those_of_the_pipeline():
    task = load_task(str(shelf() / "task.csv"))
    for arm in ("member", "scratch"):
        results = results_of(shelf() / arm)
        for split in ("validation", "test"):
            names, probabilities = stock_probabilities(shelf() / arm, task[split]["text"])
            labels, chosen = task[split]["label"][:], probabilities.argmax(axis=1)
            assert names == results["labels"] == ["farm", "sea"]
            assert results[split]["accuracy"] == pytest.approx(accuracy_score(labels, chosen))
            assert results[split]["macro_f1"] == pytest.approx(f1_score(labels, chosen, average="macro"))
            assert results[split]["loss"] == pytest.approx(
                log_loss(labels, probabilities / probabilities.sum(axis=1, keepdims=True)), abs=1e-5
            )


def test_chosen_epoch_is_the_best_on_validation():
    results = results_of(shelf() / "member")
    scores = {row["step"]: row["eval_accuracy"] for row in results["history"] if "eval_accuracy" in row}
    assert len(scores) == 2
    assert scores[results["best_step"]] == max(scores.values())
    assert results["validation"]["accuracy"] == pytest.approx(max(scores.values()))


def test_score_of_an_encoder_is_the_stock_loss_on_the_same_masks(tmp_path, capsys):
    path = write_csv(tmp_path / "text.csv", [{"text": row["text"]} for row in labelled_rows(20)])
    succeed("score", "--model", shelf() / "encoder", "--text", path, "--disable-tqdm")
    said = json.loads(capsys.readouterr().out)
    assert said["texts"] == 40
    corpus = load_corpus(str(path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(shelf() / "encoder")
    stock = transformers.BertForMaskedLM.from_pretrained(shelf() / "encoder").eval()
    collator = MaskingCollator(tokenizer, 0.15, 0, HELD_OUT_STREAM)
    total, count, tokens = 0.0, 0, 0
    for item, text in enumerate([*corpus["train"]["text"], *corpus["validation"]["text"]]):
        batch = collator([{"input_ids": tokenizer(text, truncation=True)["input_ids"], "item": item}])
        with torch.no_grad():
            logits = stock(batch["input_ids"]).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits, batch["labels"][0], reduction="sum"))
        count += int((batch["labels"] != -100).sum())
        tokens += batch["input_ids"].shape[1] - 2
    assert said["metrics"]["masked_tokens"] == count
    assert said["metrics"]["loss"] == pytest.approx(total / count, abs=1e-5)
    assert count / tokens == pytest.approx(0.15, abs=0.04)


def scored(capsys, model, *words):
    task = shelf() / "task.csv"  # made by the first test that asks for it, with words on stdout
    capsys.readouterr()
    succeed("score", "--model", shelf() / model, "--task", task, "--disable-tqdm", *words)
    return json.loads(capsys.readouterr().out)


def test_the_split_to_score_is_chosen(capsys, tmp_path):
    splits = ("train", "validation", "test", "all")
    counts = {split: scored(capsys, "member", "--split", split)["texts"] for split in splits}
    assert counts == {"train": 56, "validation": 12, "test": 12, "all": 80}
    found = scored(capsys, "committee", "--split", "test", "--output", tmp_path / "scores.json")["metrics"]
    assert found["loss"] == pytest.approx(results_of(shelf() / "committee")["test"]["loss"], abs=1e-5)
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"] == found
    assert scored(capsys, "member")["texts"] == 80


def test_a_folder_as_output_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tlm_hf.loading.read_config", None)
    words = ("--task", shelf() / "task.csv", "--output", tmp_path)
    assert tmp_path.name in refused(capsys, "score", "--model", shelf() / "member", *words)


def test_finished_command_returns_at_once(capsys, monkeypatch):
    before = contents(shelf())

    def train(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(RunTrainer, "train", train)
    succeed("pretrain", "--corpus", shelf() / "corpus.txt", "--output-dir", shelf() / "encoder", *TINY_PRETRAINING)
    said = json.loads(capsys.readouterr().out)
    assert said["held_out"] == results_of(shelf() / "encoder")["held_out"]
    words = ("--task", shelf() / "task.csv", "--model", shelf() / "encoder")
    succeed("finetune", *words, "--output-dir", shelf() / "member", *TINY_FINETUNING)
    words = ("--task", shelf() / "task.csv", "--members", shelf() / "member", shelf() / "scratch")
    succeed("committee", *words, "--output-dir", shelf() / "committee", "--disable-tqdm")
    assert contents(shelf()) == before


def test_train_committee_makes_a_folder_that_pipeline_opens(tmp_path, capsys, monkeypatch):
    rows = [{"body": row["text"], "kind": row["label"]} for row in labelled_rows(40, classes=("school", "sea"))]
    data, output = write_csv(tmp_path / "own.csv", rows), tmp_path / "out"
    words = (data, "--text-column", "body", "--label-column", "kind", "--num-members", 2, "--encoder", "none")
    words = (*words, "--size", "smoke", "--pretrain-steps", 3, "--num-train-epochs", 2, "--workers", 1)
    stop = mock.patch("tlm_hf.training.train_committee.join_members", side_effect=KeyboardInterrupt)
    with stop, pytest.raises(SystemExit):
        succeed("train-committee", *words, "--output-dir", output)
    trained = {file: file.stat().st_mtime_ns for file in output.rglob("*.safetensors")}
    succeed("train-committee", *words, "--output-dir", output)
    printed, said = capsys.readouterr().out, results_of(output)
    assert 2 < len(trained) == len(trained.items() & {file: file.stat().st_mtime_ns for file in trained}.items())
    assert said["labels"] == ["school", "sea"]
    assert said["rows"] == {"train": 56, "validation": 12, "test": 12}
    test = datasets.load_dataset("parquet", data_files=str(output / "work" / "data" / "test.parquet"), split="train")
    names, probabilities = stock_probabilities(output, test["text"][:])
    assert names == ["school", "sea"]
    predicted, labels = probabilities.argmax(axis=1), test["label"][:]
    scores = {row["model"]: row for row in said["scores"]}
    assert list(scores) == [
        "committee",
        "member 0 + words",
        "member 1 + words",
        "TF-IDF + linear model",
        "majority class",
    ]
    assert scores["committee"]["accuracy"]["value"] == pytest.approx(accuracy_score(labels, predicted))
    assert scores["majority class"]["accuracy"]["value"] == 0.5
    recalls = [row["recall"] for row in said["classes"].values()]
    assert recalls == pytest.approx(recall_score(labels, predicted, average=None))
    assert {row["body"] for row in rows} >= set(test["text"])
    sentence = said["recommendation"]
    assert sentence in printed
    linear = joblib.load(output / "baseline.joblib").predict(test["text"][:])
    right = accuracy_score([names[label] for label in labels], linear)
    assert scores["TF-IDF + linear model"]["accuracy"]["value"] == pytest.approx(right)
    assert ("linear model (baseline" in sentence) == (right > accuracy_score(labels, predicted))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(output)
    assert len(model.members) == len(said["members_without_words"]) == 2
    tables = load(output / "frozen").probabilities(test["text"][:])
    np.testing.assert_allclose(tables, probabilities, atol=1e-5)
    for folder in (output, output / "frozen"):
        card = ModelCard.load(folder / "README.md")
        assert card.data.license == "unknown"
        assert not [text for text in test["text"] if text in card.text]
    card, page = (folder.read_text(encoding="utf-8") for folder in (output / "README.md", output / "report.html"))
    for shown in (sentence, f"{right:.3f}", "baseline.joblib", *said["notes"]["about"]):
        assert shown in html.unescape(page)
        assert shown in html.unescape(card)

    # The same data from Python, as a table in memory: the same run, which is finished.
    before = contents(output)
    monkeypatch.setattr("tlm_hf.training.train_committee.finetune_members", None)
    succeed("train-committee", *words, "--output-dir", output)
    options = {"num_members": 2, "encoder": ["none"], "size": "smoke", "pretrain_steps": 3, "num_train_epochs": 2.0}
    for table in (data, pd.DataFrame(rows), datasets.Dataset.from_list(rows)):
        committee, report = train_committee(table, text="body", label="kind", output_dir=output, **options)
        assert report["scores"] == said["scores"]
        assert len(committee) == 2
    assert contents(output) == before
