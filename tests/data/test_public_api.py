"""What others can use by itself: collator, schedule and tokenizer with stock Trainer, stock BERT and stock tables."""

import datasets
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from tlm_hf.data.masking import MaskingCollator, PretrainingSchedule
from tlm_hf.data.tokenization import train_wordpiece

BATCH, STEPS = 4, 6


@pytest.fixture(scope="module")
def trained(sentences):
    return train_wordpiece(sentences, vocab_size=120)


@pytest.fixture(scope="module")
def tokens(trained, sentences) -> datasets.Dataset:
    table = datasets.Dataset.from_dict({"text": sentences})
    return table.map(lambda row: {"input_ids": trained(row["text"], truncation=True, max_length=16)["input_ids"]})


def build_trainer(tokenizer, dataset, output_dir, **options) -> Trainer:
    """A stock Trainer of a stock model with dropout, so that the state of the generators counts too."""
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes))
    arguments = TrainingArguments(
        str(output_dir), max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=1e-2, use_cpu=True,
        train_sampling_strategy="sequential", remove_unused_columns=False, save_steps=2, report_to="none",
        disable_tqdm=True, **options,
    )  # fmt: skip
    return Trainer(model, arguments, MaskingCollator(tokenizer), dataset)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, arguments, state, control, **others):
        control.should_training_stop = state.global_step >= self.step


def test_a_resumed_training_equals_an_uninterrupted_one(trained, tokens, tmp_path):
    schedule = PretrainingSchedule(tokens["input_ids"], num_items=BATCH * STEPS, batch_size=BATCH)
    whole = build_trainer(trained, schedule, tmp_path / "whole")
    whole.train()
    interrupted = build_trainer(trained, schedule, tmp_path / "resumed")
    interrupted.add_callback(StopAt(4))
    interrupted.train()
    resumed = build_trainer(trained, schedule, tmp_path / "resumed", dataloader_num_workers=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed" / "checkpoint-4"))
    assert resumed.state.global_step == STEPS
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
        assert "query" not in name or not torch.equal(weight, interrupted.model.state_dict()[name])
