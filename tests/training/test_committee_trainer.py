"""A committee trained as one model against stock BERT members that transformers' Trainer trains apart.

By SGD: Adam would blow up the key bias' gradients, which are 0 but for rounding.
"""

import numpy as np
import pytest
import torch
from conftest import TINY
from transformers import Trainer, TrainingArguments

from tlm_hf import CommitteeForSequenceClassification
from tlm_hf.training.committee_trainer import CommitteeTrainer

STEPS, ROWS = 4, 48


def rows():
    rng = np.random.default_rng(0)
    return [
        {
            "input_ids": torch.tensor(rng.integers(1, TINY["vocab_size"], 8)),
            "attention_mask": torch.ones(8, dtype=torch.long),
            "labels": torch.tensor(int(rng.integers(0, 3))),
        }
        for _ in range(ROWS)
    ]


def arguments(folder, **options):
    return TrainingArguments(
        output_dir=str(folder), report_to=[], use_cpu=True, disable_tqdm=True, max_steps=STEPS, learning_rate=0.05,
        optim="sgd", logging_steps=1, seed=3, save_strategy="no", **options,
    )  # fmt: skip


@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_equals_training_the_members_apart(build_pair, tmp_path, accumulation):
    """With a bound that one member exceeds and another does not, and members whose gradients differ in size."""
    pairs = [build_pair("classifier", seed=seed, num_labels=3) for seed in range(3)]
    with torch.no_grad():
        for model in pairs[1]:
            model.classifier.weight *= 3
    bound = 3.0
    data = rows()
    apart, norms = [], []
    for _, stock in pairs:
        # The accumulation of stock BERT's loss is wrong (it ignores num_items_in_batch): its batch is taken whole.
        options = arguments(tmp_path / "apart", max_grad_norm=bound, per_device_train_batch_size=4 * accumulation)
        trainer = Trainer(stock, options, train_dataset=data)
        trainer.train()
        logs = [row for row in trainer.state.log_history if "grad_norm" in row]
        apart.append([row["loss"] for row in logs])
        norms.append([row["grad_norm"] for row in logs])
    assert np.min(norms) < bound < np.max(norms)
    committee = CommitteeForSequenceClassification.from_members([ours for ours, _ in pairs])
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": accumulation}
    options = arguments(tmp_path / "together", max_grad_norm=bound, **sizes)
    trainer = CommitteeTrainer(committee, options, train_dataset=data)
    output = trainer.train()
    for member, (_, stock) in zip(committee, pairs, strict=True):
        for name, weight in stock.named_parameters():
            torch.testing.assert_close(member.get_parameter(name), weight, atol=2e-5, rtol=1e-4)
    assert output.training_loss == pytest.approx(np.mean(apart), rel=1e-3)
    assert output.metrics["train_loss"] == pytest.approx(output.training_loss)
    logs = [row for row in trainer.state.log_history if "grad_norm" in row]
    np.testing.assert_allclose([row["loss"] for row in logs], np.mean(apart, axis=0), rtol=1e-3)
    np.testing.assert_allclose([row["grad_norm"] for row in logs], np.linalg.norm(norms, axis=0), rtol=1e-3)


def test_trainers_own_clipping_would_not(build_pair, tmp_path):
    """What the class is for: one bound over all members together shrinks the steps of each."""
    pairs = [build_pair("classifier", seed=seed, num_labels=3) for seed in range(3)]
    committee = CommitteeForSequenceClassification.from_members([ours for ours, _ in pairs])
    trainer = Trainer(committee, arguments(tmp_path, max_grad_norm=0.01), train_dataset=rows())
    trainer.train()
    stock = pairs[0][1]
    Trainer(stock, arguments(tmp_path, max_grad_norm=0.01), train_dataset=rows()).train()
    assert not torch.allclose(committee[0].classifier.weight, stock.classifier.weight, atol=1e-6, rtol=0)


def test_refusals(build_pair, tmp_path, one_sentence):
    with pytest.raises(TypeError, match="trains a CommitteeForSequenceClassification, not a Bert") as caught:
        CommitteeTrainer(build_pair("classifier")[1])
    one_sentence(caught.value)
    committee = CommitteeForSequenceClassification.from_members([build_pair("classifier")[0]])
    with pytest.raises(ValueError, match="leave label_smoothing_factor and compute_loss_func out") as caught:
        CommitteeTrainer(committee, arguments(tmp_path, label_smoothing_factor=0.1), train_dataset=rows())
    one_sentence(caught.value)
