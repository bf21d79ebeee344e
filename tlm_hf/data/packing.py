"""Packed sequences: several texts in one row, none of which sees another, so that hardly a position is padding.

Each text keeps its own [CLS] and [SEP], its positions start at 0, and the attention mask is block-diagonal: its output
is what it has alone. The mask is 4-d (one for each query), under which the model computes its last layer in full
(`fast_paths_tlm`); length-grouped batches have as little padding without that, so they are the default. Packing is for
rows of one length whatever the texts' lengths are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .masking import PACKING_STREAM, MaskingCollator, PretrainingSchedule, generator, lengths_of


def pack(lengths: np.ndarray, max_length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Best-fit decreasing: the longest text first, each into the fullest row that still has room for it.

    Equal lengths stand in a seeded order. (Johnson, Demers, Ullman, Garey and Graham 1974: at most 11/9 of the fewest
    rows possible, and 4 more.)

    Args:
        lengths: tokens of each text, (texts,).
        max_length: tokens of a row at most.
        seed: of the order.

    Returns:
        The texts of all rows, one row after the other, int64 (texts,), and where each row starts in it and the last one
        ends, int64 (rows + 1,).

    Raises:
        ValueError: a text longer than a row.
    """
    if len(lengths) and int(lengths.max()) > max_length:
        raise ValueError(f"A text has {int(lengths.max())} tokens but a row has {max_length}: truncate it.")
    order = generator(seed, PACKING_STREAM, 0).permutation(len(lengths))
    order = order[np.argsort(-lengths[order].astype(np.int64), kind="stable")]
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(max_length + 1)]  # rows by the room that they have left
    rooms = 0  # bit r: there is a row with room r
    for text, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            rows[row].append(text)
        else:
            room, row = max_length, len(rows)
            rows.append([text])
        if room > length:
            with_room[room - length].append(row)
            rooms |= 1 << (room - length)
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    return np.array([text for row in rows for text in row], dtype=np.int64), starts


class PackedTexts(Sequence[np.ndarray]):
    """Rows of several texts; `packed[i]` is the token ids of row i, int32 (tokens of the row,).

    The rows are the same in every epoch (texts of a row do not see each other, so it does not matter which they are).

    Args:
        input_ids: token ids of each text.
        max_length: tokens of a row at most.
        seed: see `pack`.
    """

    def __init__(self, input_ids: Sequence[np.ndarray], max_length: int, seed: int) -> None:
        self.input_ids = input_ids
        lengths = lengths_of(input_ids)
        self.texts, self.starts = pack(lengths, max_length, seed)
        self._text_lengths = lengths[self.texts]
        self.lengths = np.add.reduceat(self._text_lengths, self.starts[:-1]) if len(lengths) else lengths
        """Tokens of each row, (rows,)."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def text_lengths(self, index: int) -> np.ndarray:
        """Tokens of each text of row `index`, (texts of the row,)."""
        return self._text_lengths[self.starts[index] : self.starts[index + 1]]

    def __getitem__(self, index: Any) -> Any:
        texts = self.texts[self.starts[index] : self.starts[index + 1]]
        return np.concatenate([self.input_ids[text] for text in texts])


class PackedSchedule(PretrainingSchedule):
    """A `PretrainingSchedule` whose items are packed rows: item i is a function of the seed and i all the same.

    Args:
        rows: the packed texts.
        num_items: length of the schedule in rows (batch size x steps).
        batch_size: rows per optimizer step over all processes.
        seed: seed of order and masks.
    """

    def __init__(self, rows: PackedTexts, num_items: int, batch_size: int, seed: int) -> None:
        super().__init__(rows, num_items, batch_size, seed, group_by_length=False)
        self.rows = rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`input_ids` and `item` as in `PretrainingSchedule`, and `text_lengths`, the tokens of the row's texts."""
        return {**super().__getitem__(index), "text_lengths": self.rows.text_lengths(self.text_at(index))}


class PackedMaskingCollator(MaskingCollator):
    """A `MaskingCollator` for rows of a `PackedSchedule`: one draw of masks for a row, whatever texts are in it."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows with `input_ids`, `item` and `text_lengths`.

        Returns:
            `input_ids` and `labels` as `MaskingCollator`; `attention_mask` and `position_ids` as `block_diagonal`.
        """
        batch = super().__call__(rows)
        return batch | block_diagonal([row["text_lengths"] for row in rows], batch["input_ids"].shape[1])


def block_diagonal(text_lengths: Sequence[Sequence[int] | np.ndarray], length: int) -> dict[str, torch.Tensor]:
    """Masks and positions under which each text of a row is alone.

    Args:
        text_lengths: tokens of each text, for each row.
        length: positions of a row; those behind its texts are padding, which attends to padding alone.

    Returns:
        `attention_mask` bool (batch, 1, length, length), True where the query (third axis) may attend; `position_ids`
        int64 (batch, length), from 0 in each text and in the padding.
    """
    texts = np.full((len(text_lengths), length), -1, dtype=np.int64)
    position_ids = np.zeros((len(text_lengths), length), dtype=np.int64)
    for row, lengths in enumerate(text_lengths):
        whole = np.append(lengths, length - int(np.sum(lengths)))
        position_ids[row] = np.concatenate([np.arange(count) for count in whole])
        texts[row] = np.repeat(np.arange(len(whole)), whole)
    mask = texts[:, None, :, None] == texts[:, None, None, :]
    return {"attention_mask": torch.from_numpy(mask), "position_ids": torch.from_numpy(position_ids)}
