"""Masked-language-model examples: order of texts and masks are functions of the seed and the position alone.

Item i of a `PretrainingSchedule` is the i-th text that the whole training sees, over all epochs, and its masks come
from a counter-based generator keyed by (seed, i). So a run that continues at item i, on any number of workers or
processes, sees exactly the texts and masks of one that was never interrupted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100
ORDER_STREAM, MASK_STREAM, HELD_OUT_STREAM = 1, 2, 3
SORT_WINDOW = 50


def generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    """Counter-based generator (Philox 4x64): independent streams for order, masks and held-out masks."""
    return np.random.Generator(np.random.Philox(key=[seed * 8 + stream, counter]))


class PretrainingSchedule(Dataset):
    """The sequence of texts that a training sees, `epochs` passes in seeded orders.

    Each epoch holds as many whole batches as there are texts for; the texts left over change from epoch to epoch.
    With `group_by_length` the texts of a window of 50 batches are sorted by length before they are cut into batches,
    and the batches are shuffled: less padding, the same texts.

    Args:
        input_ids: token ids of each text.
        num_items: length of the schedule (batch size x steps).
        batch_size: texts per optimizer step over all processes.
        seed: seed of order and masks.
        group_by_length: see above.
    """

    def __init__(
        self, input_ids: Sequence[np.ndarray], num_items: int, batch_size: int, seed: int, group_by_length: bool = True
    ) -> None:
        self.input_ids = input_ids
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.epoch_size = len(input_ids) // batch_size * batch_size or len(input_ids)
        self.lengths = np.array([len(ids) for ids in input_ids]) if group_by_length else None
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Texts seen in the whole training."""
        return self.num_items

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the texts in epoch `epoch`, each at most once: int64 (epoch_size,)."""
        if epoch not in self._orders:
            rng = generator(self.seed, ORDER_STREAM, epoch)
            order = rng.permutation(len(self.input_ids))[: self.epoch_size]
            if self.lengths is not None:
                order = self._group(order, self.lengths, rng)
            self._orders = {epoch: order}
        return self._orders[epoch]

    def _group(self, order: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        window = SORT_WINDOW * self.batch_size
        grouped = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches = [part[at : at + self.batch_size] for at in range(0, len(part), self.batch_size)]
            grouped += [batches[index] for index in rng.permutation(len(batches))]
        return np.concatenate(grouped)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids` of the index-th text of the training, and `item`, its place, which keys its masks."""
        epoch, within = divmod(index, self.epoch_size)
        return {"input_ids": self.input_ids[self.order(epoch)[within]], "item": index}


class MaskingCollator:
    """Pad a batch and mask it for masked language modelling (80% [MASK], 10% random token, 10% unchanged).

    Args:
        tokenizer: gives the special tokens, which are never masked nor drawn as random tokens.
        mlm_probability: share of tokens to predict.
        seed: seed of the masks.
        stream: MASK_STREAM in training; HELD_OUT_STREAM for the fixed masks of evaluation.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, mlm_probability: float, seed: int, stream: int = MASK_STREAM
    ) -> None:
        self.mlm_probability = mlm_probability
        self.seed = seed
        self.stream = stream
        self.pad_id, self.mask_id = tokenizer.pad_token_id, tokenizer.mask_token_id
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), np.array(tokenizer.all_special_ids))
        self.is_special = np.ones(len(tokenizer), dtype=bool)
        self.is_special[self.ordinary] = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows with `input_ids` and `item`.

        Returns:
            `input_ids`, `attention_mask` and `labels`, int64 (batch, longest text), labels -100 where nothing is to be
            predicted.
        """
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
        draws = np.ones((3, len(rows), longest))
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[index, :length] = row["input_ids"]
            attention_mask[index, :length] = 1
            draws[:, index, :length] = generator(self.seed, self.stream, row["item"]).random((3, length))
        chosen = (draws[0] < self.mlm_probability) & ~self.is_special[input_ids]
        labels = np.where(chosen, input_ids, IGNORE_INDEX)
        random_tokens = self.ordinary[(draws[2] * len(self.ordinary)).astype(np.int64).clip(max=len(self.ordinary) - 1)]
        input_ids = np.where(chosen & (draws[1] < 0.8), self.mask_id, input_ids)
        input_ids = np.where(chosen & (draws[1] >= 0.9), random_tokens, input_ids)
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
