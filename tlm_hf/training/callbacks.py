"""What a training tells and guards on its way: an early look at filled masks, and a watch on the loss.

Both are TrainerCallbacks that change no weight, draw no random number of torch's and are the same in every process, so
a run with them is bit-equal to one without.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..data.masking import HELD_OUT_STREAM, IGNORE_INDEX, generator
from ..errors import UserError
from .step_clock import StepClock

logger = logging.getLogger(__name__)
LOOK_SEED = 1
"""Other masks than those of the fixed-mask loss, whose seed is 0."""
DIVERGED_BY = 0.5
"""Nats above the starting level at which a loss counts as diverging: starting losses scatter by far less."""
DIVERGED_FOR = 500
"""Steps for which it must stay there: a peak rate that is too high for a moment is forgiven."""
LOOKS_BACK = 2
"""Log lines that must lie in those steps at least."""


@dataclass(frozen=True)
class Look:
    """One masked word and what the model would put there.

    Args:
        text: the text with `[MASK]` in it.
        truth: the token that stood there.
        guesses: (token, probability), the likeliest first.
    """

    text: str
    truth: str
    guesses: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        guesses = ", ".join(f"{token} {share:.0%}" for token, share in self.guesses)
        return f"{self.text}  ->  {guesses}  (was: {self.truth})"


class EarlyLook(TrainerCallback):
    """After each evaluation, log the likeliest words for one masked word in each of a few held-out texts.

    Texts and masked places are the same at every look and in every run on the same texts. One forward pass over a few
    short rows; every process computes it (where parameters are sharded all must), the main one logs.

    Args:
        tokenizer: the model's.
        input_ids: token ids of held-out texts with their special tokens, as `token_cache.TokenTable` has them.
        texts: how many of them to show, the first ones that have an ordinary word.
        guesses: how many words to show for each mask.
        length: tokens of each that are read: enough for a line, cheap whatever the model's length.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        input_ids: Sequence[Sequence[int] | np.ndarray],
        texts: int = 4,
        guesses: int = 5,
        length: int = 24,
    ) -> None:
        self.tokenizer, self.guesses = tokenizer, guesses
        self.looks: list[Look] = []
        """What was found at the last evaluation."""
        special = set(tokenizer.all_special_ids)
        self.rows: list[np.ndarray] = []
        self.places: list[int] = []
        for item, row in enumerate(input_ids):
            ids = np.asarray(row)
            if len(ids) > length:  # keep the closing [SEP]
                ids = np.append(ids[: length - 1], ids[-1])
            ordinary = [at for at, token in enumerate(ids) if int(token) not in special]
            words = [at for at in ordinary if self._is_whole_word(ids, at)] or ordinary
            if words:
                self.rows.append(ids)
                self.places.append(int(generator(LOOK_SEED, HELD_OUT_STREAM, item).choice(words)))
            if len(self.rows) == texts:
                break

    def _is_whole_word(self, ids: np.ndarray, at: int) -> bool:
        """Whether a token is a word of letters by itself: its place can be filled by one guess."""
        after = ids[at + 1] if at + 1 < len(ids) else ids[at]
        here, behind = self.tokenizer.convert_ids_to_tokens([int(ids[at]), int(after)])
        return here.isalpha() and not behind.startswith("##")

    @torch.inference_mode()
    def look(self, model: torch.nn.Module) -> list[Look]:
        """Fill the masks with `model`, a `TLMForMaskedLM`, which is left in the mode in which it was."""
        if not self.rows:
            return []
        shape = (len(self.rows), max(len(row) for row in self.rows))
        input_ids = torch.full(shape, int(self.tokenizer.pad_token_id))
        attention_mask, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORE_INDEX)
        for index, (row, place) in enumerate(zip(self.rows, self.places, strict=True)):
            input_ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
            attention_mask[index, : len(row)] = 1
            labels[index, place] = int(row[place])
            input_ids[index, place] = int(self.tokenizer.mask_token_id)
        device = next(model.parameters()).device
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        was_training = model.training
        model.eval()
        output = model(**{name: tensor.to(device) for name, tensor in batch.items()}, sparse_prediction=True)
        model.train(was_training)
        shares, tokens = output.logits.float().softmax(dim=-1).cpu().topk(min(self.guesses, output.logits.shape[-1]))
        looks = []
        for index, (row, place) in enumerate(zip(self.rows, self.places, strict=True)):
            shown = [token for token in input_ids[index, : len(row)].tolist() if token not in self._frame()]
            names = self.tokenizer.convert_ids_to_tokens(tokens[index].tolist())
            guesses = tuple(zip(names, shares[index].tolist(), strict=True))
            truth = self.tokenizer.convert_ids_to_tokens(int(row[place]))
            looks.append(Look(self.tokenizer.decode(shown), truth, guesses))
        return looks

    def _frame(self) -> set[int | None]:
        return {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log what the model fills in now."""
        self.looks = self.look(kwargs["model"])
        if self.looks and state.is_world_process_zero:
            lines = "\n".join(f"  {look}" for look in self.looks)
            logger.info(f"Masks as filled after {state.global_step} steps:\n{lines}")


class LossWatch(TrainerCallback):
    """Stop a training whose loss is not finite or diverges, before the bad state is saved as a checkpoint.

    Not finite: the loss of any step, or at a checkpoint any weight. A loss is noticed at its own step on a CPU; on a
    GPU and in several processes, where asking after every step would cost, at the next log line, evaluation or
    checkpoint, and always before it; the step that is named is the first bad one all the same.

    Diverging: every logged loss of the last `DIVERGED_FOR` steps lies more than `DIVERGED_BY` nats above the first
    logged one. Log lines are restored with a checkpoint, so a continued run is judged as one.

    Needs `WatchedTrainer.training_step` to be told the losses, and `logging_nan_inf_filter=False` in
    TrainingArguments, with which Trainer would hide them.
    """

    def __init__(self) -> None:
        self._first_bad: torch.Tensor | None = None

    def observe(self, loss: torch.Tensor, step: int) -> None:
        """Take note of the loss (a detached scalar) of one pass of step `step`, counted from 1; nothing waits."""
        if self._first_bad is None:
            self._first_bad = torch.zeros((), dtype=torch.long, device=loss.device)
        is_first = (self._first_bad == 0) & ~torch.isfinite(loss)
        self._first_bad = torch.where(is_first, step, self._first_bad)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for the losses, and before a checkpoint for the weights."""
        self._check(args, state, control, kwargs.get("model"))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The same where checkpoints are made after epochs."""
        self._check(args, state, control, kwargs.get("model"))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Judge the loss that was just logged, a mean over all processes and the steps since the last line."""
        if logs is None or "loss" not in logs:
            return
        losses = [(int(row["step"]), float(row["loss"])) for row in state.log_history if "loss" in row]
        if not math.isfinite(float(logs["loss"])):
            self._stop(f"The loss is {logs['loss']}", state.global_step, args, state)
        recent = [loss for step, loss in losses[1:] if step > state.global_step - DIVERGED_FOR]
        covered = losses[0][0] <= state.global_step - DIVERGED_FOR
        if covered and len(recent) >= LOOKS_BACK and min(recent) > losses[0][1] + DIVERGED_BY:
            self._stop(
                f"The loss diverges ({losses[0][1]:.4g} at first, above {min(recent):.4g} for {DIVERGED_FOR} steps)",
                state.global_step,
                args,
                state,
            )

    def _check(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: torch.nn.Module | None
    ) -> None:
        due = control.should_log or control.should_evaluate or control.should_save or control.should_training_stop
        alone_on_cpu = args.world_size == 1 and args.device.type == "cpu"
        if not (due or alone_on_cpu):
            return
        found = torch.zeros((), dtype=torch.long, device=args.device) if self._first_bad is None else self._first_bad
        saves = control.should_save or control.should_training_stop
        finite = model is None or not saves or _all_finite(model)
        # A step that no process reached stands for none; the earliest of all processes is the one to name.
        none = torch.iinfo(torch.long).max
        first = torch.stack([found.where(found > 0, none), torch.tensor(int(finite), device=found.device)])
        if args.world_size > 1:  # due at the same steps in every process
            torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        step, finite = int(first[0]), bool(first[1])
        if step < none:
            self._stop("The loss is not a finite number", step, args, state)
        if not finite:
            self._stop("A weight is not a finite number", state.global_step, args, state)

    def _stop(self, what: str, step: int, args: TrainingArguments, state: TrainerState) -> None:
        """Raise the one sentence; in every process alike, so that none waits for another."""
        rate = next((row["learning_rate"] for row in reversed(state.log_history) if "learning_rate" in row), None)
        rate = args.learning_rate if rate is None else rate
        found = [path for path in Path(args.output_dir).glob("checkpoint-*") if path.name[11:].isdigit()]
        last = max(found, key=lambda path: int(path.name[11:]), default=None)
        kept = f"the last good checkpoint is {last}" if last is not None else "no checkpoint was saved before it"
        raise UserError(
            f"{what} at step {step} (learning rate {float(rate):.3g}, peak {args.learning_rate:.3g}): {kept}; start "
            "again with a lower --learning-rate or a longer warm-up in another --output-dir."
        )


def _all_finite(model: torch.nn.Module) -> bool:
    """Whether every weight (of this process, where they are sharded) is a finite number; one wait for all of them."""
    sums = [
        getattr(parameter, "_local_tensor", parameter).detach().abs().sum(dtype=torch.float32)
        for parameter in model.parameters()
        if parameter.numel()
    ]
    return bool(torch.isfinite(torch.stack(sums)).all()) if sums else True


class WatchedTrainer(Trainer):
    """Trainer that tells a `LossWatch` the loss of every pass and a `StepClock` its time; takes Trainer's arguments."""

    loss_watch: LossWatch | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock = StepClock()
        self.add_callback(self.clock)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's; the watch is the last callback, so it sees every checkpoint that another one asks for."""
        if self.loss_watch is None:
            self.loss_watch = LossWatch()
            self.add_callback(self.loss_watch)
        return super().train(*args, **kwargs)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Trainer's, timed and observed."""
        with self.clock.one_pass(inputs):
            loss = super().training_step(model, inputs, *args, **kwargs)
        if self.loss_watch is not None:
            self.loss_watch.observe(loss, self.state.global_step + 1)
        return loss
