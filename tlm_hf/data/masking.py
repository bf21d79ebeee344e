"""Masked-language-model examples: order of texts and masks are functions of the seed and the position only.

Item i is the i-th text that the whole training sees, over all epochs, and its masks come from a counter-based generator
keyed by (seed, i): a continued run, on any number of workers or processes, sees what an uninterrupted one does.
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
    """The sequence of texts that a training sees: pass after pass in seeded orders, exactly resumable.

    A resumed Trainer may differ from an uninterrupted one (transformers#11323). Here the order is in the data set, so
    stock Trainer reads it in sequence (`train_sampling_strategy="sequential"`, `remove_unused_columns=False`). Each
    epoch holds as many whole batches as there are texts for; the texts left over change from epoch to epoch.

    Args:
        input_ids: token ids of each text, read when they are needed: arrays, lists, a column of a `datasets.Dataset`,
            or a `token_cache.TokenTable`.
        num_items: length of the schedule (batch size x steps).
        batch_size: texts per optimizer step over all processes.
        seed: seed of the order.
        group_by_length: sort the texts of a window of 50 batches by length before they are cut into batches, and
            shuffle the batches: less padding, the same texts.
    """

    def __init__(
        self,
        input_ids: Sequence[np.ndarray],
        num_items: int,
        batch_size: int,
        seed: int = 0,
        group_by_length: bool = True,
    ) -> None:
        self.input_ids = input_ids
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
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
            self._orders = {epoch: self._group(order, rng) if self.group_by_length else order}
        return self._orders[epoch]

    def _group(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        window = SORT_WINDOW * self.batch_size
        grouped = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches = [part[at : at + self.batch_size] for at in range(0, len(part), self.batch_size)]
            grouped += [batches[index] for index in rng.permutation(len(batches))]
        return np.concatenate(grouped)

    def text_at(self, index: int) -> int:
        """Place in `input_ids` of the index-th text of the training."""
        epoch, within = divmod(index, self.epoch_size)
        return int(self.order(epoch)[within])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids` of the index-th text of the training, and `item`, its index, which keys its masks."""
        return {"input_ids": self.input_ids[self.text_at(index)], "item": index}

    def padding_share(self, rows: int, first: int, last: int) -> float:
        """Share of padding in the batches of the items `first` to `last` (exclusive), each padded to its longest row.

        `rows` are those of a batch as the model gets it (of one process, one pass).
        """
        lengths = np.array([self.lengths[self.text_at(item)] for item in range(first, last)], dtype=np.int64)
        if not len(lengths):
            return 0.0
        starts = np.arange(0, len(lengths), rows)
        positions = np.maximum.reduceat(lengths, starts) @ np.diff(starts, append=len(lengths))
        return 1 - int(lengths.sum()) / int(positions)


class MaskingCollator:
    """Pad a batch and mask it for masked language modelling (80% [MASK], 10% random token, 10% unchanged).

    Masks of a row depend on seed, stream, `item` and the row's tokens only: not on the rest of the batch, the process,
    the worker or the state of any generator. Rows come from a `PretrainingSchedule`, or from any table with the columns
    `input_ids` and `item` (an integer that differs from row to row; the masks are then the same in every epoch), with
    `remove_unused_columns=False`.

    Args:
        tokenizer: gives the special tokens, which are never masked nor drawn as random tokens.
        mlm_probability: share of tokens to predict.
        seed: seed of the masks.
        stream: MASK_STREAM in training; HELD_OUT_STREAM for the fixed masks of evaluation.
        whole_word: choose words (a WordPiece with the `##` pieces that follow it) with `mlm_probability`, and all
            tokens of a chosen word; what replaces a token is drawn token by token (`create_pretraining_data.py`).
        length: pad every row to so many positions, for static shapes; None pads to the longest of the batch.
        final_mlm_probability: with `num_items`, the share of the last item; it changes linearly with `item`.
        num_items: items of the whole training.
        cls_weights: one weight a token, float (vocabulary,): a row's first position, [CLS], then predicts one of the
            row's ordinary tokens too, drawn by weight. With 1/sqrt(count) it tells what the text is about; compare
            RetroMAE (arXiv 2205.12035), whose [CLS] predicts all of them.

    Raises:
        ValueError: options that exclude each other; a row longer than `length` or without `item`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mlm_probability: float = 0.15,
        seed: int = 0,
        stream: int = MASK_STREAM,
        *,
        whole_word: bool = False,
        length: int | None = None,
        final_mlm_probability: float | None = None,
        num_items: int | None = None,
        cls_weights: np.ndarray | None = None,
    ) -> None:
        if final_mlm_probability is not None and not num_items:
            raise ValueError("A changing mlm_probability needs the number of items: give num_items.")
        last = mlm_probability if final_mlm_probability is None else final_mlm_probability
        self.mlm_probability = mlm_probability
        self.slope = (last - mlm_probability) / (num_items or 1)
        self.seed, self.stream = seed, stream
        self.whole_word, self.length = whole_word, length
        self.cls_weights = cls_weights
        self.pad_id, self.mask_id = tokenizer.pad_token_id, tokenizer.mask_token_id
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), np.array(tokenizer.all_special_ids))
        self.is_special = np.ones(len(tokenizer), dtype=bool)
        self.is_special[self.ordinary] = False
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.continues = np.array([str(token).startswith("##") for token in tokens]) & ~self.is_special

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows with `input_ids` and `item`.

        Returns:
            `input_ids`, `attention_mask` and `labels`, int64 (batch, longest text or `length`), labels -100 where
            nothing is to be predicted.
        """
        if any("item" not in row for row in rows):
            raise ValueError(
                "A row has no 'item' to key its masks: add the column and set remove_unused_columns=False."
            )
        longest = max(len(row["input_ids"]) for row in rows)
        if self.length is not None and longest > self.length:
            raise ValueError(f"A row has {longest} tokens but length is {self.length}: truncate it.")
        longest = longest if self.length is None else self.length
        input_ids = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
        draws, cls_labels = np.ones((3, len(rows), longest)), np.full(len(rows), IGNORE_INDEX)
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[index, :length] = row["input_ids"]
            attention_mask[index, :length] = 1
            rng = generator(self.seed, self.stream, row["item"])
            draws[:, index, :length] = rng.random((3, length))
            if self.cls_weights is not None:
                cls_labels[index] = self._draw_word(np.asarray(row["input_ids"]), self.cls_weights, rng.random())
        rates = np.array([self.mlm_probability + self.slope * row["item"] for row in rows])[:, None]
        chosen = self._choose(input_ids, draws[0], rates)
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

    def _choose(self, input_ids: np.ndarray, draws: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """The tokens to predict, bool (batch, length), from uniform `draws` of that shape and `rates` (batch, 1)."""
        ordinary = ~self.is_special[input_ids]
        if self.whole_word:
            # A token takes the draw of its word's first token.
            places = np.where(self.continues[input_ids], 0, np.arange(input_ids.shape[1]))
            draws = np.take_along_axis(draws, np.maximum.accumulate(places, axis=1), axis=1)
        return (draws < rates) & ordinary
