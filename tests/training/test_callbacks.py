"""The early look, the watch on the loss, the time budget, and trackers.

Oracles: stock BERT on the same weights for the words that a look finds; the same training without a callback, to the
last bit; a clock that the test moves for the pace; counting one by one for the number of steps.
"""

import json
import logging
import sqlite3

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from tlm_hf import TLMConfig, TLMForMaskedLM
from tlm_hf.data.masking import MaskingCollator, PretrainingSchedule
from tlm_hf.errors import UserError
from tlm_hf.training import time_budget
from tlm_hf.training.callbacks import DIVERGED_FOR, EarlyLook, LossWatch
from tlm_hf.training.time_budget import (
    BUDGET_FILE,
    TIMED_STEPS,
    TRIAL,
    Pace,
    decide_steps,
    parse_duration,
    steps_within,
)
from tlm_hf.training.trainer import RunTrainer


def tokens(tokenizer):
    return [np.array(ids) for ids in tokenizer(SENTENCES, truncation=True, max_length=16)["input_ids"]]


def build(tokenizer, folder, steps=6, trainer_class=RunTrainer, scorer=None, callbacks=(), dropout=0.1, **options):
    """A trainer of a tiny encoder on the test's sentences."""
    set_seed(3)
    config = TLMConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    options = {"logging_steps": 50, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3} | options
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False, label_names=["labels"], seed=3, **options,
    )  # fmt: skip
    return trainer_class(
        model=TLMForMaskedLM(config),
        args=arguments,
        train_dataset=PretrainingSchedule(tokens(tokenizer), steps * 4, 4, 0),
        eval_dataset=[],
        data_collator=MaskingCollator(tokenizer, 0.3, 0),
        processing_class=tokenizer,
        scorer=scorer or (lambda model: {"loss": 1.0}),
        callbacks=list(callbacks),
    )


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


# --- the early look


def test_look_finds_what_stock_bert_finds(build_pair, tokenizer):
    ours, stock = build_pair("masked_lm", vocab_size=len(tokenizer))
    rows = [np.array([2, 3]), *tokens(tokenizer)]  # [CLS] [SEP] has no word to mask and is passed over
    assert rows[0].tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    early = EarlyLook(tokenizer, rows, texts=3, guesses=4, length=9)
    ours.train()
    looks = early.look(ours)
    assert ours.training
    assert len(looks) == 3
    for (text, truth, guesses), row, place in zip(looks, early.rows, early.places, strict=True):
        assert len(row) <= 9
        assert row[-1] == tokenizer.sep_token_id
        masked = torch.tensor(row)[None].clone()
        masked[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            shares = stock(input_ids=masked).logits[0, place].softmax(dim=-1)
        best = shares.topk(4)
        assert list(guesses) == tokenizer.convert_ids_to_tokens(best.indices.tolist())
        found = torch.tensor(list(guesses.values()))
        torch.testing.assert_close(found, best.values, atol=1e-5, rtol=1e-4)
        assert truth == tokenizer.convert_ids_to_tokens(int(row[place]))
        assert text.count("[MASK]") == 1
        assert "[CLS]" not in text
        assert "[SEP]" not in text


def test_looks_and_watch_change_no_bit_and_are_logged_once_an_evaluation(tokenizer, tmp_path, caplog):
    class Unwatched(RunTrainer):
        def train(self, *args, **kwargs):
            self.add_callback = lambda callback: None
            return super().train(*args, **kwargs)

    plain = build(tokenizer, tmp_path / "plain", trainer_class=Unwatched)
    plain.train()
    look = EarlyLook(tokenizer, tokens(tokenizer))
    looking = build(tokenizer, tmp_path / "looking", callbacks=[look])
    with caplog.at_level(logging.INFO, logger="tlm_hf"):
        looking.train()
    assert_same(weights(looking), weights(plain))
    said = [record.getMessage() for record in caplog.records if "[MASK]" in record.getMessage()]
    assert [message.splitlines()[0] for message in said] == [
        "Masks as filled after 3 steps:",
        "Masks as filled after 6 steps:",
    ]
    assert all(len(message.splitlines()) == 5 for message in said)
    assert said[0].splitlines()[1].split("->")[0] == said[1].splitlines()[1].split("->")[0]


# --- the watch on the loss


class Poisoned(RunTrainer):
    """The loss of one step is not a number."""

    bad_step = 5

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        return loss * float("nan") if self.state.global_step + 1 == self.bad_step else loss


@pytest.mark.parametrize("filtered", [False, True], ids=["as it is", "hidden by Trainer's filter"])
def test_loss_that_is_no_number_stops_at_its_step(tokenizer, tmp_path, one_sentence, filtered):
    options = {"logging_nan_inf_filter": filtered, "learning_rate": 1e-3, "lr_scheduler_type": "constant"}
    trainer = build(tokenizer, tmp_path, steps=12, trainer_class=Poisoned, logging_steps=2, **options)
    with pytest.raises(UserError) as stop:
        trainer.train()
    said = one_sentence(stop.value)
    assert "at step 5 (learning rate 0.001, peak 0.001)" in said
    assert f"the last good checkpoint is {tmp_path / 'checkpoint-4'};" in said
    assert not (tmp_path / "checkpoint-6").exists()


def test_weight_that_is_no_number_is_not_saved(tokenizer, tmp_path, one_sentence):
    class Spoil(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step + 1 == 4:
                with torch.no_grad():
                    kwargs["model"].cls.predictions.bias[7] = float("inf")

    trainer = build(tokenizer, tmp_path, callbacks=[Spoil()])
    with pytest.raises(UserError) as stop:
        trainer.train()
    assert "A weight is not a finite number at step 4" in one_sentence(stop.value)
    assert "checkpoint-2;" in str(stop.value)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def history(*losses, every=100):
    return [{"loss": loss, "learning_rate": 1e-3, "step": every * (i + 1)} for i, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "stops_at"),
    [
        ([7.0, 6.5, 6.0, 5.9, 5.8, 5.7, 5.6, 5.5], None),
        ([7.0, 9.0, 9.0, 9.0, 9.0, 9.0], 600),  # above for all of 500 steps
        ([7.0, 9.0, 9.0, 9.0, 9.0, 7.4, 9.0, 9.0, 9.0, 9.0], None),  # once back within half a nat
        ([7.0, 9.0, 9.0, 7.4, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0], 900),
        ([7.0, 7.4, 7.4, 7.4, 7.4, 7.4, 7.4, 7.4], None),  # stands still, does not diverge
        ([7.0, 6.0, 5.0, float("nan")], 400),
        ([7.0, float("inf")], 200),
    ],
)
def test_what_diverges(tmp_path, losses, stops_at, one_sentence):
    assert DIVERGED_FOR == 500
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, learning_rate=2e-3)
    rows, stopped = history(*losses), None
    for count in range(1, len(rows) + 1):
        state = TrainerState(log_history=rows[:count], global_step=rows[count - 1]["step"])
        try:
            LossWatch().on_log(arguments, state, TrainerControl(), logs=rows[count - 1])
        except UserError as stop:
            said, stopped = one_sentence(stop), state.global_step
            assert f"at step {stopped} (learning rate 0.001, peak 0.002)" in said
            break
    assert stopped == stops_at


# --- the time budget


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("8h", 28800), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400), ("1H 2m 3s", 3723), ("2h5s", 7205)],
)
def test_durations(words, seconds):
    assert parse_duration(words) == seconds


@pytest.mark.parametrize("words", ["", "8", "h", "0h", "-3h", "1h30", "30m1h", "8 hours", "1h1h", "nan", "inf h"])
def test_no_durations(words, one_sentence):
    with pytest.raises(UserError, match="--time-budget") as error:
        parse_duration(words)
    one_sentence(error.value)


@pytest.mark.parametrize("pace", [Pace(0.3), Pace(2.0, 10.0, 4.0), Pace(0.001, 0.2, 3.0), Pace(1.0, 0.0, 30.0)])
@pytest.mark.parametrize("seconds", [75.0, 101.0, 997.0])
def test_steps_are_the_most_that_fit(pace, seconds):
    """Oracle: a walk through the run, with what each step brings."""
    eval_steps, save_steps = 7, 5

    def walked(steps):
        clock = 0.0
        for step in range(1, steps + 1):
            clock += pace.step
            clock += pace.evaluation * (step % eval_steps == 0 or step == steps)
            clock += pace.checkpoint * (step % save_steps == 0 or step == steps)
        return clock + pace.evaluation + pace.checkpoint  # of the finished model

    with pytest.raises(UserError, match="give more time"):
        steps_within(pace.step / 2, pace, eval_steps, save_steps)
    steps = steps_within(seconds, pace, eval_steps, save_steps)
    assert walked(steps) <= seconds + 1e-6
    assert walked(steps + 1) > seconds - 1e-6


class Clock:
    """A clock that stands still until someone moves it."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time_budget.time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize(("budget", "timed"), [(30_000.0, TIMED_STEPS), (400.0, 5)])
def test_trial_decides_once_and_leaves_nothing(tokenizer, tmp_path, monkeypatch, budget, timed):
    """A step takes 2 s (the first three 50 s), an evaluation 10 s, a checkpoint 4 s."""
    clock = Clock(monkeypatch)
    steps_seen = []

    class Ticks(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            clock.now += 50 if state.global_step <= 3 else 2
            steps_seen.append(state.global_step)

    class Saving(RunTrainer):
        def _write_checkpoint(self, model, trial):
            assert self.args.output_dir == str(tmp_path / TRIAL)
            super()._write_checkpoint(model, trial)
            clock.now += 4

    def score(model):
        clock.now += 10
        return {"loss": 1.0}

    def trial(steps, folder):
        return build(tokenizer, folder, steps, Saving, scorer=score, callbacks=[Ticks()])

    started = clock.now - 60
    left = 0.95 * budget - (60 + 150 + 2 * timed + 14)  # what is gone after the trial, a twentieth kept back
    options = {"eval_steps": 50, "save_steps": 100, "started": started}
    steps = decide_steps(tmp_path, budget, trial, **options)
    assert steps_seen[-1] == 3 + timed
    assert steps == steps_within(left, Pace(2.0, 10.0, 4.0), 50, 100)
    decided = json.loads((tmp_path / BUDGET_FILE).read_text(encoding="utf-8"))
    assert decided["steps"] == steps
    assert (decided["step_seconds"], decided["evaluation_seconds"], decided["checkpoint_seconds"]) == (2.0, 10.0, 4.0)
    assert [path.name for path in tmp_path.iterdir()] == [BUDGET_FILE]
    again = decide_steps(tmp_path, budget, lambda *rest: pytest.fail("it was decided"), **options)
    assert again == steps


# --- trackers


def logged(trainer):
    return {row["step"]: row["loss"] for row in trainer.state.log_history if "loss" in row}


def test_tensorboard_gets_every_loss(tokenizer, tmp_path):
    pytest.importorskip("tensorboard", reason="the tracker tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = build(tokenizer, tmp_path, logging_steps=2, report_to="tensorboard")
    trainer.train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    found = {event.step: event.value for event in accumulator.Scalars("train/loss")}
    assert list(found) == [2, 4, 6]
    assert found == pytest.approx(logged(trainer))
    assert [event.step for event in accumulator.Scalars("eval/loss")] == [3, 6]


def test_trackio_gets_every_loss(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # before it is imported
    pytest.importorskip("trackio", reason="the tracker trackio is not installed")
    trainer = build(tokenizer, tmp_path / "run", logging_steps=2, report_to="trackio", project="tests")
    trainer.train()
    (database,) = (tmp_path / "trackio").glob("tests*.db")
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row) for (row,) in connection.execute("select metrics from metrics")]
    found = {row["train/global_step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert found == pytest.approx(logged(trainer))
