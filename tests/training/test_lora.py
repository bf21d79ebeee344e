"""`finetune --lora-rank`: adapters and their merged weights."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from helpers_commands import assert_equal_weights, killed_after, results_of, shelf, succeed, write_task
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

RANK = 3
OPTIONS = ("--num-train-epochs", 4, "--batch-size", 8, "--learning-rate", 0.01, "--disable-tqdm", "--lora-rank", RANK)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """`encoder` (a language model without pooler), `task`, and `tuned`, fine-tuned with adapters."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "encoder").symlink_to(shelf() / "encoder")
    write_task(folder / "task")
    with contextlib.chdir(folder):
        succeed("finetune", "--model", folder / "encoder", "--task", "task", "--output-dir", "tuned", *OPTIONS)
        yield folder


def logits_of(model, folder) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["the cow and the barn", "a boat"], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**batch).logits


def test_merged_folder_opens_with_stock_classes_and_is_the_adapter_on_its_base(home):
    tuned = home / "tuned"
    merged = AutoModelForSequenceClassification.from_pretrained(tuned)
    assert type(merged) is BertForSequenceClassification
    assert merged.config.id2label == {0: "farm", 1: "sea"}
    assert merged.config.label2id == {"farm": 0, "sea": 1}
    found = logits_of(merged, tuned)
    base = BertForSequenceClassification.from_pretrained(home / "encoder", num_labels=2)
    adapted = PeftModel.from_pretrained(base, tuned / "adapter")
    torch.testing.assert_close(logits_of(adapted, tuned), found, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits_of(adapted.merge_and_unload(), tuned), found, atol=1e-5, rtol=0)


def test_adapters_and_head_alone_were_trained(home):
    before = load_file(home / "encoder" / "model.safetensors")
    after = load_file(home / "tuned" / "model.safetensors")
    shared = before.keys() & after.keys()
    assert {"bert.pooler.dense.weight", "classifier.weight"} <= after.keys() - shared
    changed = {name for name in shared if not torch.equal(before[name], after[name])}
    layers = BertConfig.from_pretrained(home / "encoder").num_hidden_layers
    names = [f"bert.encoder.layer.{i}.attention.self.{n}.weight" for i in range(layers) for n in ("query", "value")]
    assert changed == set(names)
    for name in names:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) == RANK


def test_parameters_are_counted(home):
    config = BertConfig.from_pretrained(home / "encoder")
    width = config.hidden_size
    head = width * width + width + 2 * width + 2
    results = results_of(home / "tuned")
    assert results["trainable_parameters"] == 2 * config.num_hidden_layers * RANK * 2 * width + head
    stock = BertForSequenceClassification.from_pretrained(home / "tuned")
    assert results["parameters"] == sum(parameter.numel() for parameter in stock.parameters())
    assert results["settings"]["lora_rank"] == RANK
    config = json.loads((home / "tuned" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None  # no path of this machine
    assert config["lora_alpha"] == 2 * RANK
    assert not (home / "tuned" / "adapter" / "README.md").exists()  # peft's


def test_killed_run_continues_to_the_same_end(home):
    """The best epoch is the first (all have the same accuracy), so its adapter must be found after the kill."""
    words = ("finetune", "--model", home / "encoder", "--task", "task", "--output-dir", "killed", *OPTIONS)
    with killed_after(24):
        succeed(*words)
    assert (home / "killed" / "checkpoint-7" / "adapter_model.safetensors").is_file()
    succeed(*words)
    found, expected = home / "killed", home / "tuned"
    assert_equal_weights(found, expected)
    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert results_of(found)["best_step"] == results_of(expected)["best_step"] == 7
    assert results_of(found)["trainable_parameters"] == results_of(expected)["trainable_parameters"]
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
