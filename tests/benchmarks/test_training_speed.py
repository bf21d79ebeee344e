"""The clock of a training and the benchmark of the training command.

Oracles: a clock that is moved by hand, and torch's own count of the FLOP of a step.
"""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerControl, TrainerState, TrainingArguments

from tlm_hf.benchmarks import training_speed
from tlm_hf.benchmarks.training_speed import TrainingBenchmarkArguments, benchmark_training, product_flop
from tlm_hf.data.masking import MaskingCollator
from tlm_hf.data.tokenization import load_tokenizer
from tlm_hf.errors import UserError
from tlm_hf.models.modeling_tlm import TLMForMaskedLM
from tlm_hf.training import callbacks
from tlm_hf.training.callbacks import WARM_STEPS, StepClock

BATCH, STEPS, WORDS = 4, 9, 20
SENTENCE = "boat mill river bread flour salt baker teacher story morning evening bridge old new small runs reads counts"


def test_time_is_booked_where_it_was_spent(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    clock = StepClock()
    events = (TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerState(), TrainerControl())
    batch = {"input_ids": torch.ones(2, 3), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    batch["labels"] = torch.tensor([[-100, 7, -100]] * 2)
    clock.on_train_begin(*events)
    for step in range(WARM_STEPS + 2):
        now[0] += 1  # loading the first pass
        with clock.one_pass(batch):
            now[0] += 10
        now[0] += 2  # loading the second one
        with clock.one_pass(batch):
            now[0] += 20
        now[0] += 5  # clipping and the optimizer
        clock.on_optimizer_step(*events)
        now[0] += 2  # the schedule
        clock.on_step_end(*events)
        if step == WARM_STEPS:
            with clock.apart("evaluation"):
                now[0] += 100
    found = clock.summary()
    assert found["steps"] == 2
    assert found["seconds"] == 80  # 2 x (1 + 10 + 2 + 20 + 5 + 2); the evaluation is left out
    assert found["share_outside"] == pytest.approx(5 / 40)
    assert found["median_step_seconds"] == 40
    assert found["tokens_per_second"] == 2 * 2 * 4 / 80
    assert found["positions_per_second"] == 2 * 2 * 6 / 80
    assert found["labelled_tokens_per_text"] == 1
    assert found["seconds_apart"] == {"evaluation": 100, "checkpoints": 0, "other": 0}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Results of a benchmark of smoke size, its trainer, and the file that it wrote."""
    home = tmp_path_factory.mktemp("training-speed")
    lines = [f"{SENTENCE} number {index}" for index in range(200)]
    (home / "corpus.txt").write_text("\n".join(lines) + "\n")
    trainers = []
    count = training_speed.product_flop

    def keep(clock, trainer):
        trainers.append(trainer)
        return count(clock, trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_speed, "product_flop", keep)
        results = benchmark_training(
            TrainingBenchmarkArguments(
                output_dir=str(home / "run"), corpus=str(home / "corpus.txt"), size="smoke", validation_texts=20,
                max_steps=STEPS, batch_size=BATCH, eval_steps=4, save_steps=4, stock_steps=2, num_threads=1,
                bf16="false", num_texts=160, json=str(home / "speed.json"), disable_tqdm=True,
            )
        )  # fmt: skip
    return results, trainers[0], home


def test_the_real_training_is_measured(measured):
    results, trainer, home = measured
    assert json.loads((home / "speed.json").read_text())["share_outside"] == results["share_outside"]
    assert 0 < results["share_outside"] < 1
    assert results["speed"]["steps"] == STEPS - WARM_STEPS
    length = len(load_tokenizer(str(home / "run"), 32)(f"{SENTENCE} number 7")["input_ids"])
    assert {shape[0] for shape in trainer.clock.passes} == {BATCH}
    tokens = results["tokens_per_second"] * results["speed"]["seconds"]
    assert tokens == pytest.approx(BATCH * (STEPS - WARM_STEPS) * length, rel=0.1)  # numbers differ in their pieces
    assert len(results["stock_seconds"]) == 2
    assert results["ratio"] == results["stock_step_seconds"] / results["step_seconds"]
    assert results["estimate"]["steps"] == 50 * 160 / BATCH
    assert results["stock_hours"] == pytest.approx(2000 * results["stock_step_seconds"] / 3600)
    assert all(results["speed"]["seconds_apart"][kind] > 0 for kind in ("evaluation", "checkpoints", "other"))
    assert json.loads((home / "run" / "results.json").read_text())["steps"] == STEPS


def test_products_are_those_that_torch_counts(measured):
    _, trainer, home = measured
    tokenizer = load_tokenizer(str(home / "run"), 32)
    model = TLMForMaskedLM.from_pretrained(home / "run", attn_implementation="eager").train()
    length = max(length for _, length in trainer.clock.passes)
    ids = [5 + item % 50 for item in range(length)]
    counted = 0
    for batch in range(20):  # the number of labels differs from draw to draw
        rows = [{"input_ids": ids, "item": batch * BATCH + row} for row in range(BATCH)]
        inputs = MaskingCollator(tokenizer, 0.3, seed=0)(rows)
        with FlopCounterMode(display=False) as counter:
            model(**inputs).loss.backward()
        counted += counter.get_total_flops() / 20
    clock = StepClock()
    clock.passes[BATCH, length], clock.steps, clock.whole, clock.inside = 1, 1, 1.0, 1.0
    clock._seconds, clock._labelled = [1.0], BATCH * round(0.3 * (length - 2))
    assert product_flop(clock, trainer) == pytest.approx(counted, rel=0.25)  # our packing pads texts of fewer labels
    assert product_flop(clock, trainer) <= counted * 1.02


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"recipe": "bert-1-conv2"}, "add --stock-steps 0"),
        ({"stock_steps": -1}, "--stock-steps is -1"),
        ({"time_budget": "soon"}, "--time-budget is 'soon'"),
        ({"members": 2}, "leave --members out"),
        ({"hidden_size": 64}, "add --stock-steps 0"),
        ({"max_steps": 10}, "--max-steps 10 is too short to measure: give at least 17"),
        ({"learning_rate": -1.0}, "--learning-rate is -1"),
    ],
)
def test_bad_options_are_refused_before_any_work(fields, sentence, one_sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(training_speed, "running_side", lambda *arguments: pytest.fail("a process was started"))
    with pytest.raises(UserError, match=sentence) as caught:
        benchmark_training(TrainingBenchmarkArguments(output_dir=str(tmp_path / "run"), **fields))
    one_sentence(caught.value)


def test_a_finished_training_is_not_measured_again(measured, one_sentence):
    _, _, home = measured
    with pytest.raises(UserError, match="choose a new --output-dir") as caught:
        benchmark_training(TrainingBenchmarkArguments(output_dir=str(home / "run")))
    one_sentence(caught.value)
