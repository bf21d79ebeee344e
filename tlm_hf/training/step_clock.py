"""Where the time of a training goes: in its steps (forward, backward, clipping, optimizer), outside them, or apart.

Every training has this clock; it costs a few reads of the system's clock and two small sums a step and changes nothing.
On an accelerator kernels run on behind the processor's back, so only the whole is meaningful there, not its division.
"""

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.masking import IGNORE_INDEX

WARM_STEPS = 3
"""First steps of a process, which are not counted: memory is taken and kernels are chosen then."""
EVALUATION, CHECKPOINT, OTHER = "evaluation", "checkpoints", "other"


class StepClock(TrainerCallback):
    """Adds up the seconds of training steps, and of what lies between them.

    A step's own time is from the start of each forward pass to the end of its backward pass, and in the last pass of a
    step to the end of the optimizer's step, clipping included. What is left of the time from one step's end to the
    next is *outside*: loading and masking texts, the schedule, logging, progress. Evaluation, checkpoints, and what
    else is announced by `apart`, count as neither.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.whole = self.inside = 0.0
        self.apart_seconds = {EVALUATION: 0.0, CHECKPOINT: 0.0, OTHER: 0.0}
        self.passes: Counter[tuple[int, int]] = Counter()
        """How many of the counted passes had a batch of so many (rows, tokens of a row)."""
        self._tokens: torch.Tensor | int = 0
        self._labelled: torch.Tensor | int = 0
        self._seconds: list[float] = []
        self._seen = 0
        self._step_end: float | None = None
        self._pass_start = self._apart = self._inside = 0.0

    @contextmanager
    def one_pass(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Time one forward and backward pass of `inputs`, as the collator made them."""
        self._pass_start = time.perf_counter()
        yield
        self._inside += time.perf_counter() - self._pass_start
        self._pass_start = time.perf_counter()
        ids, mask, labels = (inputs.get(name) for name in ("input_ids", "attention_mask", "labels"))
        if self._seen >= WARM_STEPS and ids is not None and ids.dim() == 2:
            self.passes[ids.shape[0], ids.shape[1]] += 1
            if mask is not None and mask.dim() == 2:
                self._tokens = self._tokens + mask.sum()
            else:
                self._tokens = self._tokens + ids.numel()
            if labels is not None and labels.dim() == 2:
                self._labelled = self._labelled + (labels != IGNORE_INDEX).sum()

    @contextmanager
    def apart(self, kind: str) -> Iterator[None]:
        """Leave the time of the block out; `kind` is what it is booked under."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._apart += seconds
            self.apart_seconds[kind] += seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start."""
        self._seen, self._step_end = 0, None

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The optimizer has made its step: clipping and that count as the step's own time."""
        self._inside += time.perf_counter() - self._pass_start

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Book the step that ends here."""
        now = time.perf_counter()
        if self._step_end is not None and self._seen >= WARM_STEPS:
            whole = now - self._step_end - self._apart
            self.steps += 1
            self.whole += whole
            self.inside += self._inside
            self._seconds.append(whole)
        self._seen += 1
        self._step_end, self._apart, self._inside = now, 0.0, 0.0

    def summary(self) -> dict[str, Any]:
        """What this process measured since it started or continued the run; `{}` before four steps.

        Returns:
            `steps` counted; `seconds` of them; `median_step_seconds`; `share_outside` of the seconds that lay outside
            forward, backward and optimizer; `tokens_per_second` (padding not counted) and `positions_per_second` (with
            it) of this process; seconds of `evaluation`, `checkpoints` and `other` since the beginning, in no other
            number here.
        """
        if not self.steps:
            return {}
        positions = sum(rows * length * count for (rows, length), count in self.passes.items())
        texts = sum(rows * count for (rows, _), count in self.passes.items())
        return {
            "steps": self.steps,
            "seconds": self.whole,
            "median_step_seconds": statistics.median(self._seconds),
            "share_outside": max(0.0, 1 - self.inside / self.whole),
            "tokens_per_second": int(self._tokens) / self.whole,
            "positions_per_second": positions / self.whole,
            "labelled_tokens_per_text": int(self._labelled) / max(1, texts),
            "seconds_apart": dict(self.apart_seconds),
        }
