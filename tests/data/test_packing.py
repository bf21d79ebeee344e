"""Packed rows: every text once, each as if it were alone, the same on every run.

Oracles: stock BERT on single texts; a quadratic best-fit-decreasing written out; batches counted as the model gets
them.
"""

import hashlib
import itertools
import json

import numpy as np
import pytest
import torch
from helpers_commands import assert_equal_weights, refused, results_of, succeed, write_corpus
from hypothesis import given
from hypothesis import strategies as st

from tlm_hf.data.masking import MaskingCollator, PretrainingSchedule
from tlm_hf.data.packing import PackedMaskingCollator, PackedSchedule, PackedTexts, block_diagonal, pack
from tlm_hf.training.trainer import ProgressFileCallback


def best_fit_decreasing(lengths, room):
    """How full each row is, by looking at every row for every text."""
    rows = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(rows)) if rows[row] + length <= room]
        if fitting:
            rows[max(fitting, key=rows.__getitem__)] += length
        else:
            rows.append(length)
    return sorted(rows)


def make_texts(count, seed=0, highest=60):
    """Texts of 2 to 16 tokens, short ones more often."""
    rng = np.random.default_rng(seed)
    lengths = 2 + (15 * rng.random(count) ** 2).astype(int)
    return [rng.integers(5, highest, length).astype(np.int32) for length in lengths]


@given(count=st.integers(0, 120), room=st.integers(1, 40), seed=st.integers(0, 5))
def test_every_text_is_packed_once_and_tightly(count, room, seed):
    lengths = np.random.default_rng(seed).integers(1, room + 1, count).astype(np.int32)
    texts, starts = pack(lengths, room, seed)
    assert sorted(texts.tolist()) == list(range(count))
    assert starts[0] == 0
    assert starts[-1] == count
    filled = [int(lengths[texts[start:end]].sum()) for start, end in itertools.pairwise(starts)]
    assert sorted(filled) == best_fit_decreasing(lengths.tolist(), room)
    again = pack(lengths, room, seed)
    assert np.array_equal(texts, again[0])
    if count > 100:
        assert not np.array_equal(texts, pack(lengths, room, seed + 1)[0])


def test_a_text_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="A text has 9 tokens but a row has 8"):
        pack(np.array([3, 9]), 8, 0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [False, True])
def test_each_text_of_a_row_is_what_stock_bert_makes_of_it_alone(build_pair, attention, training):
    ours, stock = build_pair("masked_lm", num_hidden_layers=2, attention=attention)
    ours.train(training)
    texts = make_texts(23)
    rows = PackedTexts(texts, 16, seed=3)
    lengths = [rows.text_lengths(index) for index in range(len(rows))]
    assert max(len(row) for row in lengths) > 2
    input_ids = torch.zeros((len(rows), 16), dtype=torch.long)
    for index in range(len(rows)):
        input_ids[index, : len(rows[index])] = torch.tensor(rows[index])
    assert len({len(row) for row in rows}) > 1  # some rows end in padding
    with torch.no_grad():
        logits = ours(input_ids, **block_diagonal(lengths, 16)).logits
    assert torch.isfinite(logits).all()
    seen = 0
    for index in range(len(rows)):
        at = 0
        for place, length in enumerate(lengths[index]):
            text = texts[rows.texts[rows.starts[index] + place]]
            with torch.no_grad():
                alone = stock(torch.tensor(text, dtype=torch.long)[None]).logits[0]
            torch.testing.assert_close(logits[index, at : at + length], alone, atol=1e-5, rtol=1e-5)
            at, seen = at + length, seen + 1
    assert seen == len(texts)


def test_loss_and_gradients_of_packed_rows_are_stock_berts_on_the_single_texts(build_pair, tokenizer):
    ours, stock = build_pair("masked_lm", vocab_size=len(tokenizer))
    texts = make_texts(30, seed=2, highest=len(tokenizer))
    rows = PackedTexts(texts, 16, seed=0)
    schedule = PackedSchedule(rows, len(rows), 4, seed=0)
    batch = PackedMaskingCollator(tokenizer, 0.3, seed=0)([schedule[index] for index in range(4)])
    ours.train()
    ours(**batch).loss.backward()
    total, count = 0.0, 0
    for index in range(4):
        at = 0
        for length in schedule[index]["text_lengths"]:
            ids, labels = (batch[name][index : index + 1, at : at + length] for name in ("input_ids", "labels"))
            logits = stock(ids).logits
            total = total + torch.nn.functional.cross_entropy(logits[0], labels[0], ignore_index=-100, reduction="sum")
            count, at = count + int((labels != -100).sum()), at + int(length)
    assert count > 5
    (total / count).backward()
    theirs = dict(stock.named_parameters())
    largest = max(float(parameter.grad.abs().max()) for parameter in theirs.values())
    for name, parameter in ours.named_parameters():
        assert (parameter.grad - theirs[name].grad).abs().max() <= 1e-5 * largest, name


def test_masks_of_a_packed_row_are_those_of_the_row_as_a_text(tokenizer):
    rows = PackedTexts(make_texts(60, highest=len(tokenizer)), 16, seed=0)
    schedule = PackedSchedule(rows, 40, 8, seed=1)
    batch = PackedMaskingCollator(tokenizer, 0.3, seed=1)([schedule[index] for index in (3, 11, 30)])
    plain = MaskingCollator(tokenizer, 0.3, seed=1)([schedule[index] for index in (3, 11, 30)])
    for name in ("input_ids", "labels"):
        assert torch.equal(batch[name], plain[name])
    length = batch["input_ids"].shape[1]
    assert batch["attention_mask"].shape == (3, 1, length, length)
    for place, index in enumerate((3, 11, 30)):
        lengths = schedule[index]["text_lengths"].tolist()
        expected = torch.block_diag(*(torch.ones(count, count) for count in (*lengths, length - sum(lengths)) if count))
        assert torch.equal(batch["attention_mask"][place, 0], expected.bool())
        counted = [position for count in (*lengths, length - sum(lengths)) for position in range(count)]
        assert batch["position_ids"][place].tolist() == counted


@given(count=st.integers(1, 100), batch_size=st.sampled_from([1, 4]), seed=st.integers(0, 9))
def test_an_epoch_shows_each_row_at_most_once(count, batch_size, seed):
    texts = [np.full(length, index) for index, length in enumerate(np.random.default_rng(seed).integers(1, 17, count))]
    rows = PackedTexts(texts, 16, seed)
    schedule = PackedSchedule(rows, 2 * len(rows), batch_size, seed)
    seen = [schedule[index] for index in range(schedule.epoch_size)]
    shown = [int(text) for row in seen for text in np.unique(row["input_ids"])]
    assert len(shown) == len(set(shown))
    if schedule.epoch_size == len(rows):
        assert sorted(shown) == list(range(count))
    for index in (0, schedule.epoch_size - 1):  # a continued run reads from anywhere
        fresh = PackedSchedule(PackedTexts(texts, 16, seed), 2 * len(rows), batch_size, seed)
        assert np.array_equal(fresh[index]["input_ids"], seen[index]["input_ids"])
        assert int(seen[index]["text_lengths"].sum()) == len(seen[index]["input_ids"]) <= 16


SECOND_PROCESS = """
import hashlib, json, sys
import numpy as np
from transformers import AutoTokenizer
from tlm_hf.data.packing import PackedMaskingCollator, PackedSchedule, PackedTexts

rows = PackedTexts([np.array(ids) for ids in json.loads(sys.argv[2])], 16, seed=5)
schedule = PackedSchedule(rows, 60, 4, seed=5)
collate = PackedMaskingCollator(AutoTokenizer.from_pretrained(sys.argv[1]), 0.2, seed=5)
digest = hashlib.sha256()
for value in collate([schedule[index] for index in range(40, 60)]).values():
    digest.update(value.numpy().tobytes())
print(json.dumps(digest.hexdigest()))
"""


def test_a_second_process_that_continues_sees_the_same_rows(tokenizer, tmp_path, run_with_package):
    tokenizer.save_pretrained(tmp_path)
    texts = make_texts(50, highest=len(tokenizer))
    schedule = PackedSchedule(PackedTexts(texts, 16, seed=5), 60, 4, seed=5)
    rows = [schedule[index] for index in range(60)]
    digest = hashlib.sha256()
    for value in PackedMaskingCollator(tokenizer, 0.2, seed=5)(rows[40:]).values():
        digest.update(value.numpy().tobytes())
    sent = json.dumps([ids.tolist() for ids in texts])
    assert run_with_package(SECOND_PROCESS, str(tmp_path), sent) == digest.hexdigest()


@pytest.fixture(scope="module")
def short_texts(tmp_path_factory):
    """Texts of very different lengths."""
    path = write_corpus(tmp_path_factory.mktemp("packing") / "corpus.txt", texts=120)
    lines = path.read_text(encoding="utf-8").splitlines()
    cut = [" ".join(line.split()[: 4 + index % 17]) for index, line in enumerate(lines)]
    path.write_text("\n".join(f"{line} {index}" for index, line in enumerate(cut)) + "\n", encoding="utf-8")
    return path


def count_padding(monkeypatch, kind):
    """List that fills with the share of padding of each training batch: positions that no text has."""
    counted, collate = [], kind.__call__

    def record(self, rows):
        batch = collate(self, rows)
        if self.stream == 2:
            length = batch["input_ids"].shape[1]
            counted.append((sum(length - len(row["input_ids"]) for row in rows), len(rows) * length))
        return batch

    monkeypatch.setattr(kind, "__call__", record)
    return counted


WORDS = ("--size", "smoke", "--max-steps", 20, "--batch-size", 8, "--eval-steps", 10, "--logging-steps", 5)
WORDS = (*WORDS, "--gradient-accumulation-steps", 2, "--disable-tqdm")


@pytest.mark.parametrize("packed", [False, True])
def test_the_share_of_padding_is_that_of_the_batches(short_texts, tmp_path, monkeypatch, packed):
    counted = count_padding(monkeypatch, PackedMaskingCollator if packed else MaskingCollator)
    words = ("pretrain", "--corpus", short_texts, "--output-dir", tmp_path / "run", *WORDS)
    succeed(*words, *(["--packing"] if packed else []))
    results = results_of(tmp_path / "run")
    assert len(counted) == 40
    share = sum(padding for padding, _ in counted) / sum(positions for _, positions in counted)
    assert results["padding_share"] == pytest.approx(share, abs=1e-12)
    assert 0 < results["padding_share"] < (0.1 if packed else 0.3)
    logged = [row["padding_share"] for row in results["history"] if "padding_share" in row]
    parts = [counted[at : at + 10] for at in range(0, 40, 10)]  # 5 steps of 2 passes
    expected = [sum(padding for padding, _ in part) / sum(positions for _, positions in part) for part in parts]
    assert logged == pytest.approx(expected, abs=1e-12)
    assert ("packing" in results["settings"]) is packed  # runs from before the option go on


def test_an_interrupted_packed_run_continues_to_the_same_end(short_texts, tmp_path, monkeypatch):
    words = ("pretrain", "--corpus", short_texts, *WORDS, "--packing", "--whole-word-masking", "--save-steps", 6)
    succeed(*words, "--output-dir", tmp_path / "whole")
    step_end = ProgressFileCallback.on_step_end

    def strike(self, args, state, control, **options):
        if state.global_step == 15:
            raise KeyboardInterrupt
        return step_end(self, args, state, control, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressFileCallback, "on_step_end", strike)
        with pytest.raises(SystemExit):
            succeed(*words, "--output-dir", tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-6"]
    succeed(*words, "--output-dir", tmp_path / "run")
    assert_equal_weights(tmp_path / "run", tmp_path / "whole")
    ours, theirs = results_of(tmp_path / "run"), results_of(tmp_path / "whole")
    assert ours["held_out"] == theirs["held_out"]
    assert ours["continued_from_step"] == 12
    assert ours["padding_share"] == theirs["padding_share"]
    shares = [[row.get("padding_share") for row in results["history"]] for results in (ours, theirs)]
    assert shares[0] == shares[1]
    assert ours["settings"]["packing"] is ours["settings"]["whole_word_masking"] is True


def test_a_convolution_is_not_packed(short_texts, tmp_path, capsys):
    words = ("pretrain", "--corpus", short_texts, "--output-dir", tmp_path / "run", "--recipe", "bert-1-conv2", *WORDS)
    assert "leave --packing out" in refused(capsys, *words, "--packing")
    assert not (tmp_path / "run").exists()


def test_padding_share_worked_by_hand():
    # Batches of three rows: 2 2 4 | 1 5 5 | 3: padding 4, 4, 0 of 12, 15, 3 positions.
    texts = [np.zeros(length) for length in (2, 2, 4, 1, 5, 5, 3)]
    schedule = PretrainingSchedule(texts, 14, 7, seed=0, group_by_length=False)
    schedule._orders = {0: np.arange(7)}
    assert schedule.padding_share(3, 0, 7) == pytest.approx(8 / 30)
    assert schedule.padding_share(3, 3, 7) == pytest.approx(4 / 18)
    assert schedule.padding_share(3, 3, 3) == 0
