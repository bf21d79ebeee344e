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
CONTINUATION = "##"
"""How a WordPiece that goes on with a word begins."""


def generator(seed: int, stream: int, counter: int) -> np.random.Generator:
    """Counter-based generator (Philox 4x64): independent streams for order, masks and held-out masks."""
    return np.random.Generator(np.random.Philox(key=[seed * 8 + stream, counter]))


def lengths_of(input_ids: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens of each text, (texts,): the table's own `lengths` where it has them (`token_cache.TokenTable`)."""
    known = getattr(input_ids, "lengths", None)
    return np.array([len(ids) for ids in input_ids]) if known is None else known


class PretrainingSchedule(Dataset):
    """The sequence of texts that a training sees, `epochs` passes in seeded orders.

    Each epoch holds as many whole batches as there are texts for; the texts left over change from epoch to epoch.
    With `group_by_length` the texts of a window of 50 batches are sorted by length before they are cut into batches,
    and the batches are shuffled: less padding, the same texts.

    Args:
        input_ids: token ids of each text; they are read when they are needed, so a `token_cache.TokenTable` stays on
            disk.
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
        self.lengths = lengths_of(input_ids)
        self.group_by_length = group_by_length
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Texts seen in the whole training."""
        return self.num_items

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the texts in epoch `epoch`, each at most once: int64 (epoch_size,)."""
        if epoch not in self._orders:
            rng = generator(self.seed, ORDER_STREAM, epoch)
            order = rng.permutation(len(self.input_ids))[: self.epoch_size]
            if self.group_by_length:
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

    def text_at(self, index: int) -> int:
        """Which text is the index-th of the training: its place in `input_ids`."""
        epoch, within = divmod(index, self.epoch_size)
        return int(self.order(epoch)[within])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids` of the index-th text of the training, and `item`, its place, which keys its masks."""
        return {"input_ids": self.input_ids[self.text_at(index)], "item": index}

    def padding_share(self, rows: int, first: int = 0, last: int | None = None) -> float:
        """Share of the positions of training batches that are padding, from the lengths alone.

        Args:
            rows: rows of a batch as the model gets it (of one process, one pass), padded to its longest row.
            first: the first item that counts.
            last: the item after the last one that counts; None for all.
        """
        last = self.num_items if last is None else last
        parts, at = [np.zeros(0, dtype=self.lengths.dtype)], first
        while at < last:
            epoch, within = divmod(at, self.epoch_size)
            end = min(last, (epoch + 1) * self.epoch_size)
            parts.append(self.lengths[self.order(epoch)[within : within + end - at]])
            at = end
        lengths = np.concatenate(parts)
        if not len(lengths):
            return 0.0
        starts = np.arange(0, len(lengths), rows)
        longest = np.maximum.reduceat(lengths, starts).astype(np.int64)
        positions = int((longest * np.diff(np.append(starts, len(lengths)))).sum())
        return 1 - int(lengths.sum(dtype=np.int64)) / positions


class MaskingCollator:
    """Pad a batch and mask it for masked language modelling (80% [MASK], 10% random token, 10% unchanged).

    Masks of a row depend on seed, stream, `item` and the row's tokens alone: not on the rest of the batch, the process
    or the worker.

    Args:
        tokenizer: gives the special tokens, which are never masked nor drawn as random tokens.
        mlm_probability: share of tokens to predict.
        seed: seed of the masks.
        stream: MASK_STREAM in training; HELD_OUT_STREAM for the fixed masks of evaluation.
        whole_word: choose words, each with `mlm_probability`, and all tokens of a chosen word: a word is a WordPiece
            with the `##` pieces that follow it. What stands in a chosen token's place is drawn token by token, as in
            BERT's `create_pretraining_data.py`.
        num_predictions: in place of a draw for each token, exactly min(num_predictions, round(`mlm_probability` x
            ordinary tokens), but at least 1) tokens of each row, all sets equally likely: the fixed count that
            `TLMForMaskedLM.forward(num_predictions=)` needs for static shapes (BERT's `max_predictions_per_seq`).
        length: pad every row to so many positions, again for static shapes; None pads to the longest of the batch.
        final_mlm_probability: with `num_items`, the share of the last item; it changes linearly with `item`.
        num_items: items of the whole training.

    Raises:
        ValueError: `whole_word` with `num_predictions`; a row longer than `length`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mlm_probability: float,
        seed: int,
        stream: int = MASK_STREAM,
        *,
        whole_word: bool = False,
        num_predictions: int | None = None,
        length: int | None = None,
        final_mlm_probability: float | None = None,
        num_items: int | None = None,
    ) -> None:
        if whole_word and num_predictions is not None:
            raise ValueError("Whole words have no fixed count of tokens: give whole_word or num_predictions.")
        if final_mlm_probability is not None and not num_items:
            raise ValueError("A changing mlm_probability needs the number of items: give num_items.")
        self.mlm_probability = mlm_probability
        self.slope = (
            0.0 if final_mlm_probability is None else (final_mlm_probability - mlm_probability) / (num_items or 1)
        )
        self.seed = seed
        self.stream = stream
        self.whole_word, self.num_predictions, self.length = whole_word, num_predictions, length
        self.pad_id, self.mask_id = tokenizer.pad_token_id, tokenizer.mask_token_id
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer)), np.array(tokenizer.all_special_ids))
        self.is_special = np.ones(len(tokenizer), dtype=bool)
        self.is_special[self.ordinary] = False
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.continues = np.array([str(token).startswith(CONTINUATION) for token in tokens]) & ~self.is_special

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows with `input_ids` and `item`.

        Returns:
            `input_ids`, `attention_mask` and `labels`, int64 (batch, longest text or `length`), labels -100 where
            nothing is to be predicted.
        """
        longest = max(len(row["input_ids"]) for row in rows)
        if self.length is not None and longest > self.length:
            raise ValueError(f"A row has {longest} tokens but length is {self.length}: truncate it.")
        longest = longest if self.length is None else self.length
        input_ids = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
        draws = np.ones((3, len(rows), longest))
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            input_ids[index, :length] = row["input_ids"]
            attention_mask[index, :length] = 1
            draws[:, index, :length] = generator(self.seed, self.stream, row["item"]).random((3, length))
        rates = np.array([self.mlm_probability + self.slope * row["item"] for row in rows])[:, None]
        chosen = self._choose(input_ids, draws[0], rates)
        labels = np.where(chosen, input_ids, IGNORE_INDEX)
        random_tokens = self.ordinary[(draws[2] * len(self.ordinary)).astype(np.int64).clip(max=len(self.ordinary) - 1)]
        input_ids = np.where(chosen & (draws[1] < 0.8), self.mask_id, input_ids)
        input_ids = np.where(chosen & (draws[1] >= 0.9), random_tokens, input_ids)
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _choose(self, input_ids: np.ndarray, draws: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """The tokens to predict, bool (batch, length), from uniform `draws` of that shape and `rates` (batch, 1)."""
        ordinary = ~self.is_special[input_ids]
        if self.num_predictions is not None:
            wanted = np.rint(rates[:, 0] * ordinary.sum(axis=1)).clip(1, self.num_predictions)
            ranks = np.where(ordinary, draws, 2.0).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
            return (ranks < wanted[:, None]) & ordinary
        if self.whole_word:
            # A token's draw is that of the last place before it (or its own) where no piece continues a word.
            places = np.where(self.continues[input_ids], 0, np.arange(input_ids.shape[1]))
            draws = np.take_along_axis(draws, np.maximum.accumulate(places, axis=1), axis=1)
        return (draws < rates) & ordinary
