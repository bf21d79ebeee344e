"""RunTrainer alone, with a stock model, a stock data set and stock TrainingArguments, as its docstring says."""

import os
import signal

import datasets
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, TrainingArguments, set_seed

from tlm_hf.errors import Terminated
from tlm_hf.training.trainer import RunTrainer


class Strike(TrainerCallback):
    """Sends this process a signal in the middle of an epoch."""

    def __init__(self, number):
        self.number = number

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            os.kill(os.getpid(), self.number)


def build(folder, callbacks=()):
    set_seed(1)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 40, (26, 7), generator=generator).tolist()
    rows = datasets.Dataset.from_dict({"input_ids": ids, "labels": [sum(row) % 3 for row in ids]})
    arguments = TrainingArguments(
        str(folder), num_train_epochs=3, per_device_train_batch_size=8, save_steps=4, logging_steps=3, use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    return RunTrainer(model=model, args=arguments, train_dataset=rows, callbacks=list(callbacks))


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_interrupted_and_continued_is_the_same_run(tmp_path, number, error):
    whole = build(tmp_path / "whole")
    whole.train(resume_from_checkpoint=True)  # there is nothing to resume yet
    before = signal.getsignal(number)
    with pytest.raises(error):
        build(tmp_path / "parts", [Strike(number)]).train(resume_from_checkpoint=True)
    assert signal.getsignal(number) is before
    assert (tmp_path / "parts" / "checkpoint-5").is_dir()
    continued = build(tmp_path / "parts")
    continued.train(resume_from_checkpoint=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(continued.model.state_dict()[name], tensor), name
    losses = [[row["loss"] for row in each.state.log_history if "loss" in row] for each in (whole, continued)]
    assert losses[0] == losses[1]
