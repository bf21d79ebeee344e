"""What fine-tuning starts from: the encoder's own weights, and a classifier that was not trained on other labels."""

import numpy as np
import pytest
import torch
from helpers_commands import labelled_rows, results_of, shelf, succeed, write_csv
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score
from transformers import BertConfig, BertForSequenceClassification

from tlm_hf.errors import UserError
from tlm_hf.loading import load_for_finetuning
from tlm_hf.training.finetune_options import FinetuneOptions

SHAPE = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


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
    words += ("--task", tmp_path / "rows.csv", "--learning-rate", 0, "--save-logits", "--disable-tqdm")
    succeed("finetune", *words, "--output-dir", tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert weights["bert.embeddings.word_embeddings.weight"][1:].std().item() == pytest.approx(0.3, rel=0.05)
    results = results_of(tmp_path / "run")
    with np.load(tmp_path / "run" / "logits.npz", allow_pickle=False) as stored:
        for split in ("validation", "test"):
            right = accuracy_score(stored[f"{split}_labels"], stored[split].argmax(-1))
            assert right == pytest.approx(results[split]["accuracy"])


def test_a_range_without_new_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="--from-scratch"):
        FinetuneOptions.read({"model": "x", "output_dir": str(tmp_path), "initializer_range": 0.1})
