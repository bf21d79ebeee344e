"""The schedules of pre-training: rates against transformers' own schedulers, masks, decay and clipping."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from helpers_commands import results_of, succeed, write_corpus
from transformers import BertForMaskedLM, BertTokenizer, get_linear_schedule_with_warmup

from tlm_hf.data.corpora import load_corpus
from tlm_hf.training import pretrain as pretraining
from tlm_hf.training.pretrain_options import PretrainOptions

WORDS = ("pretrain", "--corpus", "corpus.txt", "--size", "smoke", "--batch-size", "8", "--logging-steps", "1")
WORDS = (*WORDS, "--disable-tqdm")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus.txt")


def rates(folder):
    return [row["learning_rate"] for row in results_of(folder)["history"] if "loss" in row]


@pytest.mark.parametrize(("schedule", "steps", "repeats"), [("paper", 100, 2), ("paper-repaired", 50, 1)])
def test_the_papers_rate_is_that_of_its_code(corpus, tmp_path, schedule, steps, repeats):
    """The authors' main.py: get_linear_schedule_with_warmup(max(epochs // 100, 1), epochs), one step an epoch."""
    succeed(*WORDS, "--schedule", schedule, "--max-steps", steps, "--output-dir", "out")
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=5e-5)
    theirs = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=1, num_training_steps=50)
    expected = []
    for _ in range(50):
        expected += repeats * [optimizer.param_groups[0]["lr"]]
        optimizer.step()
        theirs.step()
    assert np.allclose(rates(tmp_path / "out"), expected, rtol=1e-12, atol=0)


def test_what_the_paper_decays_clips_and_drops(corpus, tmp_path, monkeypatch):
    seen = {}
    train = pretraining.RunTrainer.train

    def watch(trainer, *arguments, **options):
        found = train(trainer, *arguments, **options)
        seen.update(args=trainer.args, groups=trainer.optimizer.param_groups, config=trainer.model.config)
        return found

    monkeypatch.setattr(pretraining.RunTrainer, "train", watch)
    succeed(*WORDS, "--schedule", "paper", "--max-steps", "1", "--output-dir", "out")
    decayed = [len(group["params"]) for group in seen["groups"] if group["weight_decay"] == 0.01]
    assert decayed == [sum(len(group["params"]) for group in seen["groups"])]
    assert {group["betas"] for group in seen["groups"]} == {(0.9, 0.999)}
    assert seen["args"].max_grad_norm == 0
    assert seen["config"].hidden_dropout_prob == seen["config"].attention_probs_dropout_prob == 0.1
    assert seen["config"].initializer_range == 0.02
    assert results_of(tmp_path / "out")["settings"]["mlm_probability"] == 0.15


@pytest.mark.parametrize(
    ("given", "peak"), [({"hidden_size": 64}, 2e-3), ({"hidden_size": 768}, 5e-4), ({"schedule": "paper"}, 5e-5)]
)
def test_wide_encoders_take_a_lower_rate(given, peak):
    assert PretrainOptions.read({"output_dir": "out", **given}).arguments().learning_rate == pytest.approx(peak)


@pytest.mark.parametrize(
    ("words", "starts_at_unigrams"),
    [((), True), (("--unigram-bias", "false"), False), (("--schedule", "paper"), False)],
)
def test_where_the_decoders_bias_starts(corpus, tmp_path, words, starts_at_unigrams):
    succeed(*WORDS, *words, "--learning-rate", "0", "--max-steps", "1", "--output-dir", "out")
    bias = BertForMaskedLM.from_pretrained(tmp_path / "out").cls.predictions.bias.detach()
    if not starts_at_unigrams:
        assert not bias.any()  # as in stock BERT
        return
    texts = load_corpus("corpus.txt")["train"]["text"][:]
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "out")
    counts = Counter(token for text in texts for token in tokenizer(text, truncation=True)["input_ids"])
    counts = {token: n for token, n in counts.items() if token not in tokenizer.all_special_ids}
    total = sum(counts.values()) + len(tokenizer)
    assert np.allclose(
        bias, [math.log((counts.get(token, 0) + 1) / total) for token in range(len(tokenizer))], atol=1e-6
    )
