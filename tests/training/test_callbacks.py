"""`RunTrainer` by itself: signals, losses that are not finite, its clock; and the time budget."""

import json
import math
import os
import signal
import types
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import SENTENCES, refusal
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from tlm_hf import TLMConfig, TLMForMaskedLM
from tlm_hf.data.masking import MaskingCollator, PretrainingSchedule
from tlm_hf.errors import Terminated, UserError
from tlm_hf.runs.atomic_files import write_json
from tlm_hf.runs.output_folder import RESULTS_FILE
from tlm_hf.training import callbacks, members, time_budget
from tlm_hf.training.callbacks import WARM_STEPS, LogRows, StepClock
from tlm_hf.training.time_budget import BUDGET_FILE, TIMED_STEPS, TRIAL_STEPS, decide_steps, fit_members, parse_duration
from tlm_hf.training.trainer import RunTrainer


def build(tokenizer, folder, steps=6, trainer_class=RunTrainer, scorer=None, callbacks=(), dropout=0.1, **options):
    set_seed(3)
    ids = tokenizer(SENTENCES, truncation=True, max_length=16)["input_ids"]
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
        train_dataset=PretrainingSchedule(list(map(np.array, ids)), steps * 4, 4, 0),
        eval_dataset=[],
        data_collator=MaskingCollator(tokenizer, 0.3, 0),
        processing_class=tokenizer,
        scorer=scorer or (lambda model: {"loss": 1.0}),
        callbacks=list(callbacks),
    )


class Poisoned(RunTrainer):
    bad_step = 5

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        return loss * float("nan") if self.state.global_step + 1 == self.bad_step else loss


@pytest.mark.parametrize(("filtered", "what"), [(False, "loss"), (True, "weight")], ids=["logged", "hidden by Trainer"])
def test_loss_that_is_no_number_stops_before_the_next_checkpoint(tokenizer, tmp_path, filtered, what):
    options = {"logging_nan_inf_filter": filtered, "learning_rate": 1e-3, "lr_scheduler_type": "constant"}
    trainer = build(tokenizer, tmp_path, steps=12, trainer_class=Poisoned, logging_steps=2, **options)
    said = refusal(trainer.train)
    assert f"{what} is not a finite number at step 6 (peak learning rate 0.001)" in said
    assert f"the last good checkpoint is {tmp_path / 'checkpoint-4'};" in said
    assert not (tmp_path / "checkpoint-6").exists()


class Strike(TrainerCallback):
    def __init__(self, number):
        self.number = number

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_interrupted_and_continued_is_the_same_run(tokenizer, tmp_path, number, error):
    """In the middle of an epoch, and with dropout."""
    whole = build(tokenizer, tmp_path / "whole", 10)
    whole.train(resume_from_checkpoint=True)  # there is nothing to resume yet
    before = signal.getsignal(number)
    with pytest.raises(error):
        build(tokenizer, tmp_path / "parts", 10, callbacks=[Strike(number)]).train(resume_from_checkpoint=True)
    assert signal.getsignal(number) is before
    assert (tmp_path / "parts" / "checkpoint-5").is_dir()
    continued = build(tokenizer, tmp_path / "parts", 10)
    continued.train(resume_from_checkpoint=True)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(continued.model.state_dict()[name], tensor), name


def test_a_logged_loss_comes_with_tokens_a_second_and_the_time_left(tmp_path, caplog):
    caplog.set_level("INFO", "tlm_hf")
    trainer = mock.MagicMock()
    trainer.clock.summary.return_value = {"seconds": 30.0, "steps": 10, "tokens_per_second": 1234.0}
    state, arguments = TrainerState(global_step=40, max_steps=100), TrainingArguments(str(tmp_path), use_cpu=True)
    LogRows(trainer).on_log(arguments, state, TrainerControl(), {"loss": 2.5})
    assert all(part in caplog.text for part in ("2.5000", "1,234", "0:03:00"))


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("8h", 28800), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5h", 5400), ("1H 2m 3s", 3723), ("2h5s", 7205)],
)
def test_durations(words, seconds):
    assert parse_duration(words) == seconds


@pytest.mark.parametrize("words", ["", "8", "h", "0h", "-3h", "1h30", "30m1h", "8 hours", "1h1h", "nan", "inf h"])
def test_no_durations(words):
    assert "--time-budget" in refusal(parse_duration, words)


def test_trial_decides_once_and_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    """A step takes 2 s (the first three 50 s), an evaluation 10 s."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time_budget.time, "perf_counter", lambda: clock.now)

    class Ticks(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            clock.now += 50 if state.global_step <= 3 else 2

    def score(model):
        clock.now += 10
        return {"loss": 1.0}

    def trial(steps, folder):
        assert folder == str(tmp_path / time_budget.TRIAL)
        return build(tokenizer, folder, steps, scorer=score, callbacks=[Ticks()], eval_steps=50)

    budget, started = 30_000.0, clock.now - 60
    steps = decide_steps(tmp_path, budget, trial, started)
    left = 0.9 * budget - (60 + 150 + 2 * TIMED_STEPS + 10) - 2 * 10  # after the trial, a tenth kept back
    assert (steps - 1) * 2 + steps // 50 * 10 <= left <= (steps + 1) * 2.2
    assert json.loads((tmp_path / BUDGET_FILE).read_text(encoding="utf-8"))["step_seconds"] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == [BUDGET_FILE]
    assert decide_steps(tmp_path, budget, lambda *rest: pytest.fail("it was decided"), started) == steps


def test_time_is_booked_where_it_was_spent(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    clock = StepClock()
    events = (TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(), TrainerControl())
    batch = {"input_ids": torch.ones(2, 3), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    clock.on_train_begin(*events)
    for step in range(WARM_STEPS + 2):
        now[0] += 1  # loading the first pass
        clock.count(batch)
        now[0] += 12
        clock.count(batch)
        now[0] += 27
        clock.on_step_end(*events)
        if step == WARM_STEPS:
            with clock.apart("evaluation"):
                now[0] += 60
                with clock.apart("evaluation"):  # of several sets
                    now[0] += 40
    found = clock.summary()
    assert found["steps"] == 2
    assert found["seconds"] == 80  # 2 x (1 + 12 + 27); the evaluation is left out
    assert found["median_step_seconds"] == 40
    assert found["tokens_per_second"] == 2 * 2 * 4 / 80
    assert found["seconds_apart"] == {"evaluation": 100, "checkpoints": 0}


def test_a_budget_for_no_step_is_refused(tokenizer, tmp_path):
    with pytest.raises(UserError, match="--time-budget leaves 0 seconds"):
        decide_steps(tmp_path, 0.01, lambda n, to: build(tokenizer, to, n), 0.0)


@pytest.mark.parametrize(
    ("seconds", "fitting"), [(1000, (3, 20)), (190, (3, 18)), (100, (3, 8)), (60, (2, 11)), (14, (2, 0.6))]
)
def test_passes_go_before_members_and_a_budget_holds(seconds, fitting):
    """Around a member 10 s; a pass of 14 steps of 0.25 s and 0.5 s after it; two side by side."""
    members, passes = fit_members(seconds, 10, 4, 20.0, members=3, workers=2)
    assert (members, passes) == fitting
    assert fit_members(11.2, 10, 4, 0.05, members=1, workers=1) == (1, 0.05)  # never more than was asked for
    assert math.ceil(members / 2) * (10 + passes * 4) <= 0.9 * seconds


def test_the_members_trial_decides_once_and_leaves_nothing(tmp_path, monkeypatch):
    """A member takes 9 s around its steps of 0.5 s, and 1.5 s after each pass of 7 steps; the trial has 13 steps."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(members.time, "perf_counter", lambda: clock.now)

    def finetune_members(*, workers, models, max_steps, output_dir, **options):
        assert (workers, models, max_steps) == (2, ["a", "b"], TRIAL_STEPS)
        clock.now += 9 + 13 * 0.5 + 2 * 1.5
        for index, step in enumerate((0.4, 0.5)):
            speed = {"seconds": 10 * step, "steps": 10, "seconds_apart": {"evaluation": 2.0, "checkpoints": 1.0}}
            (Path(output_dir) / f"member-{index}").mkdir(parents=True)
            write_json(Path(output_dir) / f"member-{index}" / RESULTS_FILE, {"speed": speed})

    monkeypatch.setattr(members, "finetune_members", finetune_members)
    options = {"models": ["a", "b", "c"], "num_train_epochs": 20.0, "output_dir": "members"}
    with pytest.raises(UserError, match=r"--time-budget 30s is too short: 24 .* at least 11 more; give 41s"):
        members.fit_to_budget("30s", 95.0, tmp_path, 200, 2, options)
    clock.now = 100.0
    for _ in range(2):
        options = {"models": ["a", "b", "c"], "num_train_epochs": 20.0, "output_dir": "members"}
        fit = members.fit_to_budget("2m", 95.0, tmp_path, 200, 2, options)
        clock.now += 4  # of linear models
        sentence = fit()
        left = 0.9 * (120 - 5 - 18.5 - 2 * 4)
        assert options == {"models": ["a", "b", "c"], "num_train_epochs": (left / 2 - 9) // 5, "output_dir": "members"}
        assert "3 of 3 members, 6 of 20 passes" in sentence
        assert [path.name for path in tmp_path.iterdir()] == [BUDGET_FILE]
        monkeypatch.setattr(members, "finetune_members", None)
