"""`finetune --schedule`: the authors' optimization and ours, and which options win."""

import pytest
import torch
from helpers_commands import assert_equal_weights, labelled_rows, results_of, shelf, succeed, write_csv, write_splits
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, DataCollatorWithPadding

from tlm_hf.loading import load_for_finetuning
from tlm_hf.runs.output_folder import Run
from tlm_hf.training import finetune as module
from tlm_hf.training.finetune_options import FinetuneOptions

SHAPE = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BATCH, EPOCHS, PEAK = 16, 3, 0.004
EPSILON = 1e-5  # with 1e-8 Adam moves a weight by the rounding of a gradient near 0, in which processors differ


@pytest.mark.parametrize("schedule", ["paper", "tlm"])
def test_fine_tuning_is_the_plain_loop(tmp_path, monkeypatch, schedule):
    encoder, start, batches = shelf() / "encoder", tmp_path / "start", []

    class Recorded(DataCollatorWithPadding):
        def __call__(self, features):
            batch = super().__call__(features)
            batches.append({name: value.clone() for name, value in batch.items()})
            return batch

    def load_and_keep(*words, **options):
        model = load(*words, **options)
        model.save_pretrained(start)
        return model

    load = module.load_for_finetuning
    monkeypatch.setattr(module, "load_for_finetuning", load_and_keep)
    monkeypatch.setattr(module, "DataCollatorWithPadding", Recorded)
    rows = labelled_rows(40)
    task = write_splits(tmp_path / "task", train=rows[:40], validation=rows[40:60], test=rows[60:])
    words = ("--model", encoder, "--task", task, "--output-dir", tmp_path / "run")
    words += ("--num-train-epochs", EPOCHS, "--batch-size", BATCH, "--learning-rate", PEAK, "--disable-tqdm")
    words += ("--dropout", 0, "--bf16", "false", "--logging-steps", 1, "--adam-epsilon", EPSILON)
    succeed("finetune", *words, "--schedule", schedule)
    results = results_of(tmp_path / "run")
    steps_per_epoch = 3  # 40 texts, the last batch half full
    # Behind each epoch stands the validation split in one batch.
    training = [batch for index, batch in enumerate(batches) if index % (steps_per_epoch + 1) < steps_per_epoch]
    assert [len(batch["labels"]) for batch in training] == [16, 16, 8] * EPOCHS

    model = BertForSequenceClassification.from_pretrained(start).train()
    everything = list(model.named_parameters())
    plain = [name.endswith("bias") or "LayerNorm" in name for name, _ in everything]
    decays = [schedule == "paper" or not bare for bare in plain]
    groups = [
        {"params": [value], "weight_decay": 0.01 if kept else 0.0}
        for (_, value), kept in zip(everything, decays, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=EPSILON)
    rates = []
    for step, batch in enumerate(training[: results["best_step"]]):
        if schedule == "paper":
            rate = PEAK * (1 - (step // steps_per_epoch) / EPOCHS)
        else:  # a tenth of 9 steps, rounded up, is the warm-up
            rate = PEAK * (step if step < 1 else (9 - step) / 8)
        rates.append(rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        model(**batch).loss.backward()
        if schedule == "tlm":
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    logged = [row["learning_rate"] for row in results["history"] if "learning_rate" in row]
    assert logged[: len(rates)] == pytest.approx(rates)
    found = load_file(tmp_path / "run" / "model.safetensors")
    before = load_file(start / "model.safetensors")
    assert (found["classifier.weight"] - before["classifier.weight"]).abs().max() > 1e-3
    for name, value in model.named_parameters():
        if name.endswith("key.bias"):  # shifts all scores of a query alike: its gradient is rounding alone
            continue
        torch.testing.assert_close(
            found[name], value.detach(), atol=2e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert results["schedule"] == schedule


def test_patience_ends_a_training_that_no_longer_improves(tmp_path):
    write_csv(tmp_path / "table.csv", labelled_rows(40))
    words = ("--model", shelf() / "encoder", "--task", tmp_path / "table.csv", "--disable-tqdm")
    late = ("--num-train-epochs", 9, "--patience", 2, "--learning-rate", 1e-12)
    succeed("finetune", *words, *late, "--output-dir", tmp_path / "run")
    results = results_of(tmp_path / "run")
    # The first epoch is as good as any, and two more are waited for.
    assert results["steps"] == 3 * results["best_step"]
    # Killed before its results were written, the same command trains no further epoch.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "finish", lambda *rest: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            succeed("finetune", *words, *late, "--output-dir", tmp_path / "late")
    succeed("finetune", *words, *late, "--output-dir", tmp_path / "late")
    assert results_of(tmp_path / "late")["steps"] == results["steps"]
    assert_equal_weights(tmp_path / "late", tmp_path / "run")


def test_the_papers_options_and_given_ones():
    def settings(**given):
        return FinetuneOptions.read({"output_dir": "out", **given}).settings()

    paper = {"num_train_epochs": 50.0, "learning_rate": 5e-5, "warmup_steps": 0.0, "weight_decay": 0.01}
    assert settings(schedule="paper").items() >= paper.items()
    given = {"num_train_epochs": 3.0, "learning_rate": 1e-4, "dropout": 0.0, "warmup_steps": 0.0, "max_grad_norm": 1.0}
    assert settings(schedule="paper", **given).items() >= given.items()


def test_the_test_split_chooses_nothing(tmp_path):
    rows = labelled_rows(40)
    other = [{**row, "label": "farm"} for row in rows[60:70]] + [{**row, "label": "sea"} for row in rows[70:]]
    weights = []
    for name, test in (("one", rows[60:]), ("other", other)):
        task = write_splits(tmp_path / name, train=rows[:40], validation=rows[40:60], test=test)
        words = ("--model", shelf() / "encoder", "--task", task, "--output-dir", tmp_path / f"run-{name}")
        succeed("finetune", *words, "--num-train-epochs", 3, "--learning-rate", 0.01, "--disable-tqdm")
        weights.append(load_file(tmp_path / f"run-{name}" / "model.safetensors"))
    assert results_of(tmp_path / "run-one")["test"] != results_of(tmp_path / "run-other")["test"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_classifier_trained_on_other_labels_is_not_kept(tmp_path):
    stock = BertForSequenceClassification(BertConfig(**SHAPE, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}))
    torch.nn.init.constant_(stock.classifier.weight, 3.0)
    stock.save_pretrained(tmp_path)
    same = load_for_finetuning(str(tmp_path), ["a", "b"], dropout=0.0, from_scratch=False)
    other = load_for_finetuning(str(tmp_path), ["b", "c"], dropout=0.0, from_scratch=False)
    new = load_for_finetuning(str(tmp_path), ["a", "b"], dropout=0.0, from_scratch=True)
    assert torch.equal(same.classifier.weight, stock.classifier.weight)
    assert other.classifier.weight.abs().max() < 1
    assert other.config.id2label == {0: "b", 1: "c"}
    for model in (same, other):
        assert torch.equal(model.bert.pooler.dense.weight, stock.bert.pooler.dense.weight)
    assert not torch.equal(new.bert.pooler.dense.weight, stock.bert.pooler.dense.weight)


def test_new_weights_have_the_range_that_was_asked_for(tmp_path):
    words = ("--model", shelf() / "encoder", "--from-scratch", "--initializer-range", 0.3, "--num-train-epochs", 0.01)
    write_csv(tmp_path / "rows.csv", labelled_rows(60))
    words += ("--task", tmp_path / "rows.csv", "--learning-rate", 0, "--disable-tqdm")
    succeed("finetune", *words, "--output-dir", tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert weights["bert.embeddings.word_embeddings.weight"][1:].std().item() == pytest.approx(0.3, rel=0.05)
