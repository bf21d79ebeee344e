"""What a training shows and guards: rows of numbers, filled masks, a watch on the loss, a clock, and interrupts.

All are TrainerCallbacks that change no weight and draw no random number of torch's, so a run with them is bit-equal to
one without.
"""

import contextlib
import datetime
import logging
import math
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..data.masking import HELD_OUT_STREAM, IGNORE_INDEX, generator
from ..errors import Terminated, UserError
from ..runs.checkpoints import list_checkpoints
from ..runs.worker_pool import STOP_SIGNAL, write_progress

logger = logging.getLogger(__name__)
LOOK_SEED = 1
"""Other masks than those of the fixed-mask loss, whose seed is 0."""
DIVERGED_BY, DIVERGED_FOR = 0.5, 500
"""Nats above the first logged loss, and steps for which it must stay there: starting losses scatter by far less."""
LOOKS_BACK = 2
"""Fewest log lines in those steps."""
WARM_STEPS = 3
"""First steps of a process, which are not timed: memory is allocated and kernels are chosen then."""
EVALUATION, CHECKPOINT, OTHER = "evaluation", "checkpoints", "other"


class StepClock(TrainerCallback):
    """Adds up the seconds of training steps; a few reads of the system's clock and two small sums a step.

    Forward and backward passes and the optimizer are *inside* a step; the rest from one step's end to the next is
    *outside*: loading and masking texts, logging, progress. What `apart` books (evaluation, checkpoints) is neither.
    On an accelerator, where kernels run asynchronously, only the whole is meaningful.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.whole = self.inside = 0.0
        self.apart_seconds = {EVALUATION: 0.0, CHECKPOINT: 0.0, OTHER: 0.0}
        self.passes: Counter[tuple[int, int]] = Counter()
        """Counted passes by the shape of their batch: (rows, tokens of a row)."""
        self._tokens: torch.Tensor | int = 0
        self._labelled: torch.Tensor | int = 0
        self._seconds: list[float] = []
        self._seen = 0
        self._step_end: float | None = None
        self._pass_start = self._apart = self._inside = 0.0

    @contextlib.contextmanager
    def one_pass(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Time one forward and backward pass of `inputs`, as the collator made them."""
        self._pass_start = time.perf_counter()
        yield
        self._inside += time.perf_counter() - self._pass_start
        self._pass_start = time.perf_counter()
        ids, mask, labels = (inputs.get(name) for name in ("input_ids", "attention_mask", "labels"))
        if self._seen >= WARM_STEPS and ids is not None:
            self.passes[ids.shape[0], ids.shape[1]] += 1
            self._tokens = self._tokens + (ids.numel() if mask is None else mask.sum())
            if labels is not None and labels.dim() == 2:
                self._labelled = self._labelled + (labels != IGNORE_INDEX).sum()

    @contextlib.contextmanager
    def apart(self, kind: str) -> Iterator[None]:
        """Leave the time of the block out and book it under `kind`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._apart += seconds
            self.apart_seconds[kind] += seconds

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._seen, self._step_end = 0, None

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Clipping and the optimizer count as inside."""
        self._inside += time.perf_counter() - self._pass_start

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Book the step that ends here."""
        now = time.perf_counter()
        if self._step_end is not None and self._seen >= WARM_STEPS:
            seconds = now - self._step_end - self._apart
            self.steps += 1
            self.whole += seconds
            self.inside += self._inside
            self._seconds.append(seconds)
        self._seen += 1
        self._step_end, self._apart, self._inside = now, 0.0, 0.0

    def summary(self) -> dict[str, Any]:
        """What this process measured since it started or continued the run; `{}` before four steps.

        `tokens_per_second` leaves padding out, `positions_per_second` counts it.
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


class LogRows(TrainerCallback):
    """Logs one aligned row of numbers for each log line: step, epoch, losses, rate, tokens a second, time left."""

    COLUMNS = (
        ("epoch", "epoch", 8, ".2f"),
        ("loss", "loss", 9, ".4f"),
        ("eval loss", "eval_loss", 11, ".4f"),
        ("accuracy", "eval_accuracy", 10, ".4f"),
        ("rate", "learning_rate", 10, ".2e"),
    )

    def __init__(self, clock: StepClock, accuracy: bool) -> None:
        self.clock, self._titled = clock, False
        self.columns = [column for column in self.COLUMNS if accuracy or column[0] != "accuracy"]

    @classmethod
    def install(cls, trainer: Any, *, accuracy: bool = False) -> None:
        """Put rows in place of the dictionaries that a `RunTrainer` prints; its progress bar stays."""
        trainer.remove_callback(PrinterCallback)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback):
                callback.on_log = lambda *_, **__: None
        trainer.add_callback(cls(trainer.clock, accuracy))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Log the row, and before the first one the titles."""
        if not state.is_world_process_zero or not logs or not {"loss", "eval_loss"} & logs.keys():
            return
        speed, pace, left = self.clock.summary() if "loss" in logs else {}, "", ""
        if speed:
            pace = f"{speed['tokens_per_second'] * args.world_size:,.0f}"
            seconds = int((state.max_steps - state.global_step) * speed["seconds"] / speed["steps"])
            left = str(datetime.timedelta(seconds=seconds))
        if not self._titled:
            titles = "".join(f"{title:>{width}}" for title, _, width, _ in self.columns)
            logger.info(f"{'step':>9}{titles}{'tokens/s':>11}{'left':>10}")
            self._titled = True
        cells = (
            f"{format(logs[name], form) if name in logs else '':>{width}}" for _, name, width, form in self.columns
        )
        logger.info(f"{state.global_step:>9,}{''.join(cells)}{pace:>11}{left:>10}".rstrip())


class ProgressFile(TrainerCallback):
    """Notes the share of steps done in the run's folder, at most once a second, for whoever waits for several runs."""

    def __init__(self) -> None:
        self._last = 0.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the share."""
        now = time.monotonic()
        if args.should_save and now - self._last >= 1:
            self._last = now
            with contextlib.suppress(OSError):  # a full disk: the next checkpoint says so and stops
                write_progress(Path(args.output_dir), state.global_step / max(1, state.max_steps))


class Interrupt(TrainerCallback):
    """SIGINT and SIGTERM finish the step, save a checkpoint and stop; a second SIGINT ends the process at once.

    Only in the main thread of a single process: several processes would stop after different steps and wait for each
    other for ever, so they end at once and continue from the last checkpoint.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Take the signals over."""
        if args.world_size == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, STOP_SIGNAL):
                if number is not None:
                    self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if number != STOP_SIGNAL and self.received is None:
            logger.warning("Interrupted: saving a checkpoint after this step; interrupt again to stop at once.")
        self.received = number

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint and the end of training."""
        if self.received is not None and not control.should_training_stop:
            # A whole epoch is saved at its end, after its evaluation, which a continued run would not make up for.
            control.should_save = args.save_strategy != "epoch" or not self._epoch_is_whole(state)
            control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Within an epoch nothing is evaluated: the best epoch is chosen among whole ones, interrupted or not."""
        if self.received is not None and not self._epoch_is_whole(state):
            control.should_evaluate = control.should_save = False

    @staticmethod
    def _epoch_is_whole(state: TrainerState) -> bool:
        return state.epoch is not None and abs(state.epoch - round(state.epoch)) < 1e-6

    def give_back(self) -> None:
        """Restore the handlers from before the training."""
        while self._before:
            signal.signal(*self._before.popitem())

    def raise_if_received(self) -> None:
        """Raise KeyboardInterrupt, or Terminated after SIGTERM, unless nothing was received."""
        if self.received is not None:
            raise Terminated if self.received == signal.SIGTERM else KeyboardInterrupt


class LossWatch(TrainerCallback):
    """Stops a training whose loss is not finite or diverges, before the bad state is saved as a checkpoint.

    Not finite: the loss of any step, or any weight at a checkpoint. On one CPU the loss is read at its own step, else
    with the next log line, evaluation or checkpoint; the first bad step is named all the same. Diverging: every logged
    loss of the last `DIVERGED_FOR` steps is more than `DIVERGED_BY` nats above the first logged one.
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
        """Check the losses, and before a checkpoint the weights."""
        due = control.should_log or control.should_evaluate or control.should_save or control.should_training_stop
        if not due and (args.world_size > 1 or args.device.type != "cpu"):
            return
        saves, model = control.should_save or control.should_training_stop, kwargs.get("model")
        finite = model is None or not saves or _all_finite(model)
        bad = torch.zeros((), dtype=torch.long, device=args.device) if self._first_bad is None else self._first_bad
        none = torch.iinfo(torch.long).max  # no bad step; the earliest of all processes is the one to name
        first = torch.stack([bad.where(bad > 0, none), torch.tensor(int(finite), device=bad.device)])
        if args.world_size > 1:  # due at the same steps in every process
            torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        if int(first[0]) < none:
            _stop("The loss is not a finite number", int(first[0]), args, state)
        if not int(first[1]):
            _stop("A weight is not a finite number", state.global_step, args, state)

    on_epoch_end = on_step_end

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Judge the loss that was just logged, a mean over all processes and the steps since the last line."""
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(float(logs["loss"])):
            _stop(f"The loss is {logs['loss']}", state.global_step, args, state)
        losses = [(int(row["step"]), float(row["loss"])) for row in state.log_history if "loss" in row]
        recent = [loss for step, loss in losses[1:] if step > state.global_step - DIVERGED_FOR]
        covered = losses[0][0] <= state.global_step - DIVERGED_FOR
        if covered and len(recent) >= LOOKS_BACK and min(recent) > losses[0][1] + DIVERGED_BY:
            change = f"{losses[0][1]:.4g} at first, above {min(recent):.4g} for {DIVERGED_FOR} steps"
            _stop(f"The loss diverges ({change})", state.global_step, args, state)


def _stop(what: str, step: int, args: TrainingArguments, state: TrainerState) -> None:
    """Raise the one sentence; in every process alike, so that none waits for another."""
    rates = [row["learning_rate"] for row in state.log_history if "learning_rate" in row]
    rate = float(rates[-1] if rates else args.learning_rate)
    checkpoints = list_checkpoints(Path(args.output_dir))
    left = f"the last good checkpoint is {checkpoints[0]}" if checkpoints else "no checkpoint was saved before it"
    raise UserError(
        f"{what} at step {step} (learning rate {rate:.3g}, peak {args.learning_rate:.3g}): {left}; start again with a "
        "lower --learning-rate or a longer warm-up in another --output-dir."
    )


def _all_finite(model: torch.nn.Module) -> bool:
    """Whether every weight (of this process, where they are sharded) is a finite number; one wait for all of them."""
    parameters = [getattr(each, "_local_tensor", each).detach() for each in model.parameters() if each.numel()]
    sums = [each.abs().sum(dtype=torch.float32) for each in parameters]
    return not sums or bool(torch.isfinite(torch.stack(sums)).all())


class EarlyLook(TrainerCallback):
    """After each evaluation, logs the likeliest words for one masked word in each of a few held-out texts.

    Texts and masked places are the same at every look and in every run on the same texts. Every process computes the
    one forward pass (where parameters are sharded all must); the main one logs.

    Args:
        tokenizer: the model's.
        input_ids: token ids of held-out texts with their special tokens.
        texts: how many of them to show, the first ones that have an ordinary word.
        guesses: how many words to show for each mask.
        length: tokens of each that are read.
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
        self.rows: list[np.ndarray] = []
        self.places: list[int] = []
        for item, row in enumerate(input_ids):
            ids = np.asarray(row)
            if len(ids) > length:  # keep the closing [SEP]
                ids = np.append(ids[: length - 1], ids[-1])
            tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
            ordinary = [at for at, token in enumerate(ids) if int(token) not in tokenizer.all_special_ids]
            # Whole words of letters, where there are some: one guess can fill their place.
            words = [at for at in ordinary if tokens[at].isalpha() and not tokens[at + 1].startswith("##")] or ordinary
            if words:
                self.rows.append(ids)
                self.places.append(int(generator(LOOK_SEED, HELD_OUT_STREAM, item).choice(words)))
            if len(self.rows) == texts:
                break

    @torch.inference_mode()
    def look(self, model: torch.nn.Module) -> list[tuple[str, str, dict[str, float]]]:
        """Fill the masks with `model`, a `TLMForMaskedLM`, which keeps its mode.

        Returns:
            For each text: it with `[MASK]` in it, the masked token, and the likeliest tokens with their probabilities.
        """
        if not self.rows:
            return []
        masked = [row.tolist() for row in self.rows]
        truths = []
        for row, place in zip(masked, self.places, strict=True):
            truths.append(row[place])
            row[place] = self.tokenizer.mask_token_id
        batch = self.tokenizer.pad({"input_ids": masked}, return_tensors="pt")
        labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
        labels[range(len(truths)), self.places] = torch.tensor(truths)
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        tensors = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        output = model(**tensors, labels=labels.to(device), sparse_prediction=True)
        model.train(was_training)
        shares, tokens = output.logits.float().softmax(dim=-1).cpu().topk(min(self.guesses, output.logits.shape[-1]))
        looks = []
        for row, truth, best, probabilities in zip(masked, truths, tokens.tolist(), shares.tolist(), strict=True):
            guesses = dict(zip(self.tokenizer.convert_ids_to_tokens(best), probabilities, strict=True))
            looks.append((self.tokenizer.decode(row[1:-1]), self.tokenizer.convert_ids_to_tokens(truth), guesses))
        return looks

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log what the model fills in now."""
        looks = self.look(kwargs["model"])
        if looks and state.is_world_process_zero:
            lines = [f"Masks as filled after {state.global_step} steps:"]
            for text, truth, guesses in looks:
                shown = ", ".join(f"{token} {share:.0%}" for token, share in guesses.items())
                lines.append(f"  {text}  ->  {shown}  (was: {truth})")
            logger.info("\n".join(lines))
