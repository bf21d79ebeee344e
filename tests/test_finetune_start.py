"""What fine-tuning starts from: the encoder's own weights, and a classifier that was not trained on other labels."""

import torch
from transformers import BertConfig, BertForSequenceClassification

from tlm_hf.loading import load_for_finetuning

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
