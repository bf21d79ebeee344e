"""Masked-language-model examples, by seed and position only: a continued run sees what an uninterrupted one does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

ORDER_STREAM, MASK_STREAM, HELD_OUT_STREAM = 1, 2, 3
IGNORE_INDEX = -100
SORT_WINDOW = 50  # batches of texts that are sorted by length together


def generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    """Counter-based generator (Philox 4x64): independent streams for order, masks and held-out masks."""
    return np.random.Generator(np.random.Philox(key=[seed * 8 + stream, counter]))


class PretrainingSchedule(Dataset):
    """The sequence of texts that a training sees: pass after pass in seeded orders, exactly resumable.

    Stock Trainer reads it in sequence (`train_sampling_strategy="sequential"`, `remove_unused_columns=False`), since
    its own order may change when a run is resumed (transformers#11323). Each epoch holds as many whole batches as there
    are texts for; the texts left over change from epoch to epoch. `input_ids` are those of each text (arrays, lists, or
    a column of a data set), `num_items` is batch size x steps, `batch_size` the texts of an optimizer step over all
    processes. With `group_by_length` the texts of 50 batches are sorted by length, and the batches shuffled.
    """

    def __init__(
        self, input_ids: Sequence[Any], num_items: int, batch_size: int, seed: int = 0, group_by_length: bool = True
    ) -> None:
        self.input_ids, self.num_items, self.batch_size, self.seed = input_ids, num_items, batch_size, seed
        self.epoch_size = len(input_ids) // batch_size * batch_size or len(input_ids)
        lengths = getattr(input_ids, "lengths", None)
        self.lengths = np.array([len(ids) for ids in input_ids]) if lengths is None else lengths
        self.group_by_length = group_by_length
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.num_items

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the texts in epoch `epoch`, each at most once: int64 (epoch_size,)."""
        if epoch not in self._orders:
            rng = generator(self.seed, ORDER_STREAM, epoch)
            order = rng.permutation(len(self.input_ids))[: self.epoch_size]
            grouped, window = [], SORT_WINDOW * self.batch_size
            for start in range(0, len(order), window) if self.group_by_length else ():
                part = order[start : start + window]
                part = part[np.argsort(self.lengths[part], kind="stable")]
                batches = [part[at : at + self.batch_size] for at in range(0, len(part), self.batch_size)]
                grouped += [batches[index] for index in rng.permutation(len(batches))]
            self._orders = {epoch: np.concatenate(grouped) if grouped else order}
        return self._orders[epoch]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids` of the index-th text of the training, and `item`, its index, which keys its masks."""
        epoch, within = divmod(index, self.epoch_size)
        return {"input_ids": self.input_ids[int(self.order(epoch)[within])], "item": index}


class MaskingCollator:
    """Pad a batch and mask it for masked language modelling (80% [MASK], 10% random token, 10% unchanged).

    Masks of a row depend on seed, stream, `item` and the row's tokens only. Rows come from a `PretrainingSchedule`, or
    from any table with `input_ids` and `item` (another integer for each row; its masks are the same in every epoch),
    with `remove_unused_columns=False`. Special tokens are never masked nor drawn. `stream` is MASK_STREAM in training,
    HELD_OUT_STREAM for the fixed masks of evaluation. With `cls_weights`, float (vocabulary,), [CLS] also predicts an
    ordinary token of its row, drawn by weight (compare RetroMAE, arXiv 2205.12035).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mlm_probability: float = 0.15,
        seed: int = 0,
        stream: int = MASK_STREAM,
        *,
        cls_weights: np.ndarray | None = None,
    ) -> None:
        self.mlm_probability, self.seed, self.stream = mlm_probability, seed, stream
        self.cls_weights = cls_weights
        self.pad_id, self.mask_id = tokenizer.pad_token_id, tokenizer.mask_token_id
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), np.array(tokenizer.all_special_ids))
        self.is_special = np.ones(len(tokenizer), dtype=bool)
        self.is_special[self.ordinary] = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `labels` (-100: nothing to predict), int64 (batch, longest text)."""
        if any("item" not in row for row in rows):
            raise ValueError("A row has no 'item' to key its masks: add it, and set remove_unused_columns=False.")
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        input_ids = np.full(shape, self.pad_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        draws, cls_labels = np.ones((3, *shape)), np.full(len(rows), IGNORE_INDEX)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[index, :length] = row["input_ids"]
            attention_mask[index, :length] = 1
            rng = generator(self.seed, self.stream, row["item"])
            draws[:, index, :length] = rng.random((3, length))
            if self.cls_weights is not None:
                cls_labels[index] = self._draw_word(np.asarray(row["input_ids"]), self.cls_weights, rng.random())
        chosen = (draws[0] < self.mlm_probability) & ~self.is_special[input_ids]
        labels = np.where(chosen, input_ids, IGNORE_INDEX)
        if self.cls_weights is not None:
            labels[:, 0] = cls_labels
        random_tokens = self.ordinary[(draws[2] * len(self.ordinary)).astype(np.int64).clip(max=len(self.ordinary) - 1)]
        input_ids = np.where(chosen & (draws[1] < 0.8), self.mask_id, input_ids)
        input_ids = np.where(chosen & (draws[1] >= 0.9), random_tokens, input_ids)
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _draw_word(self, ids: np.ndarray, weights: np.ndarray, draw: float) -> int:
        """One of the ordinary tokens by weight, from a uniform draw; IGNORE_INDEX where there is none."""
        words = ids[~self.is_special[ids]]
        if not len(words):
            return IGNORE_INDEX
        sums = np.cumsum(weights[words])
        return int(words[min(np.searchsorted(sums, draw * sums[-1], side="right"), len(words) - 1)])
