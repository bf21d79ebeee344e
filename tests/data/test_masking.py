"""Masks and the order of texts."""

import numpy as np
import pytest
import torch
from helpers_masking import SPECIAL, make_rows
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from tlm_hf.data import masking
from tlm_hf.data.masking import HELD_OUT_STREAM, MASK_STREAM, MaskingCollator, PretrainingSchedule


def test_the_shares_are_80_10_10_on_100_000_tokens(tokenizer):
    rng = np.random.default_rng(1)
    ids = rng.integers(len(SPECIAL), len(tokenizer), (1600, 64))
    rate = 0.15  # the default
    batch = MaskingCollator(tokenizer, seed=3)([{"input_ids": row, "item": i} for i, row in enumerate(ids)])
    shown, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
    chosen = labels != -100
    assert chosen.mean() == pytest.approx(rate, abs=0.01)
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    np.testing.assert_array_equal(shown[~chosen], ids[~chosen])
    is_mask, is_same = shown == tokenizer.mask_token_id, shown == ids
    accident = 0.1 / (len(tokenizer) - len(SPECIAL))  # a random token is the old one now and then
    assert is_mask[chosen].mean() == pytest.approx(0.8, abs=0.01)
    assert is_same[chosen].mean() == pytest.approx(0.1 + accident, abs=0.01)
    assert (~is_mask & ~is_same)[chosen].mean() == pytest.approx(0.1 - accident, abs=0.01)
    # Random tokens are drawn evenly from all ordinary ones; no position of a text is preferred.
    drawn = np.bincount(shown[chosen & ~is_mask & ~is_same], minlength=len(tokenizer))
    assert drawn[list(SPECIAL)].sum() == 0
    assert chisquare(drawn[len(SPECIAL) :]).pvalue > 1e-4
    assert chisquare(chosen.sum(axis=0)).pvalue > 1e-4


@given(seed=st.integers(0, 1000), rate=st.sampled_from([0.15, 0.5, 1.0]))
def test_special_tokens_and_padding_are_never_chosen_nor_drawn(tokenizer, seed, rate):
    rows = make_rows(tokenizer, 12, seed)
    batch = MaskingCollator(tokenizer, rate, seed)(rows)
    for row, shown, attended, labels in zip(
        rows, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        ids = torch.tensor(row["input_ids"])
        length = len(ids)
        assert attended.tolist() == [1] * length + [0] * (len(attended) - length)
        assert (shown[length:] == tokenizer.pad_token_id).all()
        assert (labels[length:] == -100).all()
        is_special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        assert (labels[:length][is_special] == -100).all()
        assert torch.equal(shown[:length][is_special], ids[is_special])
        became_special = torch.isin(shown[:length][~is_special], torch.tensor([0, 1, 2, 3]))
        assert not became_special.any()
        if rate == 1.0:
            assert torch.equal(labels[:length][~is_special], ids[~is_special])


def test_masks_of_a_text_depend_on_seed_stream_and_item_alone(tokenizer):
    rows = make_rows(tokenizer, 20)
    collate = MaskingCollator(tokenizer, 0.3, seed=0)
    alone = {row["item"]: {name: value[0] for name, value in collate([row]).items()} for row in rows}
    for order in (range(20), reversed(range(20)), [7, 3, 19]):
        picked = [rows[index] for index in order]
        batch = collate(picked)
        for place, row in enumerate(picked):
            for name in ("input_ids", "labels"):
                assert torch.equal(batch[name][place, : len(row["input_ids"])], alone[row["item"]][name])
    same = MaskingCollator(tokenizer, 0.3)(rows)  # the default seed
    assert torch.equal(same["labels"], collate(rows)["labels"])
    moved = [{**row, "item": row["item"] + 1000} for row in rows]
    for other in (
        MaskingCollator(tokenizer, 0.3, seed=6)(rows),
        MaskingCollator(tokenizer, 0.3, stream=HELD_OUT_STREAM)(rows),
        MaskingCollator(tokenizer, 0.3, stream=MASK_STREAM)(moved),
    ):
        changed = sum(not torch.equal(*pair) for pair in zip(other["labels"], same["labels"], strict=True))
        assert changed >= 15  # a text of one token may well stay as it is


def test_no_stream_is_one_of_a_neighbouring_seed():
    streams = (masking.ORDER_STREAM, MASK_STREAM, HELD_OUT_STREAM)
    assert len({masking.generator(seed, stream, 7).random() for seed in range(9) for stream in streams}) == 27


def test_rows_without_an_item_are_refused(tokenizer):
    with pytest.raises(ValueError, match="remove_unused_columns"):
        MaskingCollator(tokenizer)([{"input_ids": np.arange(9)}])


def test_workers_change_no_batch(tokenizer):
    texts = [row["input_ids"] for row in make_rows(tokenizer, 30)]
    schedule, collate = PretrainingSchedule(texts, 48, batch_size=8, seed=3), MaskingCollator(tokenizer, 0.3, seed=3)
    batches = [*DataLoader(schedule, 8, num_workers=2, collate_fn=collate)]
    assert len(batches) == 6
    for number, batch in enumerate(batches):
        expected = collate([schedule[index] for index in range(8 * number, 8 * number + 8)])
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def make_texts(count, seed=0, longest=40):
    rng = np.random.default_rng(seed)
    return [np.full(rng.integers(1, longest), index) for index in range(count)]


@given(count=st.integers(1, 200), batch_size=st.sampled_from([1, 3, 8]), grouped=st.booleans(), seed=st.integers(0, 9))
def test_an_epoch_shows_each_text_at_most_once(count, batch_size, grouped, seed):
    texts = make_texts(count)
    schedule = PretrainingSchedule(texts, 3 * count, batch_size, seed, group_by_length=grouped)
    whole = count // batch_size * batch_size or count
    assert len(schedule) == 3 * count
    assert schedule.epoch_size == whole
    seen = [schedule[index] for index in range(3 * whole)]
    assert [row["item"] for row in seen] == list(range(3 * whole))
    epochs = [[int(row["input_ids"][0]) for row in seen[e * whole : (e + 1) * whole]] for e in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == whole
        assert set(epoch) <= set(range(count))
    if whole > 12:
        assert epochs[0] != epochs[1]
        other = PretrainingSchedule(texts, count, batch_size, seed + 1, group_by_length=grouped)
        assert [int(other[index]["input_ids"][0]) for index in range(whole)] != epochs[0]
    # Reading backwards, as a continued run may, gives the same.
    assert [int(schedule[index]["input_ids"][0]) for index in reversed(range(whole))] == epochs[0][::-1]


def test_grouping_by_length_saves_padding():
    texts, size = make_texts(640, longest=64), 16
    padding = {}
    for grouped in (True, False):
        order = PretrainingSchedule(texts, 640, size, seed=0, group_by_length=grouped).order(0)
        lengths = np.array([len(texts[index]) for index in order]).reshape(-1, size)
        padding[grouped] = int((lengths.max(axis=1, keepdims=True) - lengths).sum())
        first, last = lengths.mean(axis=1)[:20].mean(), lengths.mean(axis=1)[20:].mean()
        assert abs(first - last) < 12  # batches of short and of long texts alternate: no curriculum
    assert padding[True] < 0.15 * padding[False]
