"""The models behind the Space: committees, masked language models, the race. Nothing of Gradio here."""

import os
import re
import tempfile
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import entropy
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

try:
    from tlm_runtime import FrozenRuntime, softmax  # a staged Space has the file beside this one
except ModuleNotFoundError:
    from tlm_hf.runtime import FrozenRuntime, softmax

LONGEST_TEXT = 20_000
"""Characters of a text that are looked at; no encoder here reads more tokens than a fraction of them holds."""
MOST_MASKS = 10
MOST_WORDS = 60
"""Words of a text that are left out in turn."""
SLICE, LONGEST_RACE = 0.04, 30.0
"""Seconds that an entrant of the race runs before the next one does, and of the race."""
MEMBER_AXIS = {"values": 1, "scores": 1, "position_scores": 1, "scale": 2}
"""Axis of the members in tables of a frozen committee where it is not the first."""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class DemoError(Exception):
    """What a visitor reads when something is not as it must be."""


def clean_text(text: Any, longest: int = LONGEST_TEXT) -> tuple[str, list[str]]:
    """The text without what no tokenizer takes, cut to `longest`, and notes about it; DemoError if nothing is left."""
    words = CONTROL.sub(" ", str(text or "").encode("utf-8", "replace").decode("utf-8")).strip()
    if not words:
        raise DemoError("Write a sentence: the text is empty.")
    is_cut = len(words) > longest
    return words[:longest], [f"Only the first {longest:,} of {len(words):,} characters were looked at."] * is_cut


@dataclass
class Model:
    """A model in torch with its tokenizer, the name that visitors read, and a committee's tables if it has any."""

    name: str
    source: str
    model: Any
    tokenizer: Any
    frozen: FrozenRuntime | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the classes."""
        return [str(self.model.config.id2label[index]) for index in range(self.model.config.num_labels)]

    @property
    def longest(self) -> int:
        """Tokens of a text that are read."""
        return min(int(self.tokenizer.model_max_length), 512)

    def encode(self, texts: list[str]) -> Any:
        """Texts as tensors."""
        options = {"truncation": True, "max_length": self.longest, "padding": True, "return_token_type_ids": False}
        return self.tokenizer(texts, return_tensors="pt", **options)

    @torch.inference_mode()
    def torch_logits(self, texts: list[str]) -> np.ndarray:
        """Each member's logits by torch, (texts, members, labels)."""
        output = self.model(**self.encode(texts))
        members = getattr(output, "member_logits", None)
        return (output.logits[:, None] if members is None else members).float().numpy()

    def logits(self, texts: list[str]) -> np.ndarray:
        """Each member's logits, (texts, members, labels), from the tables if there are any."""
        if self.frozen is None:
            return self.torch_logits(texts)
        return self.frozen.member_logits(self.frozen.encode(texts)[0])

    def combine(self, logits: np.ndarray) -> np.ndarray:
        """The committee's calibrated probabilities (texts, labels) from its members' logits."""
        temperature = getattr(self.model.config, "temperature", 1.0)
        if getattr(self.model.config, "combination", "probabilities") == "logits":
            return softmax(logits.mean(axis=1) / temperature, axis=-1)
        mean = softmax(logits, axis=-1).mean(axis=1)
        return softmax(np.log(np.maximum(mean, np.finfo(np.float32).tiny)) / temperature, axis=-1)


def load(source: str, name: str = "", *, masked: bool = False, stock: bool = False) -> Model:
    """Open a folder or Hub name as a classifier or masked language model, and freeze it if it is a committee.

    `stock` is transformers' own class in place of the model's code.

    Raises:
        DemoError: whatever the reason.
    """
    kind = AutoModelForMaskedLM if masked else AutoModelForSequenceClassification
    try:
        model, found = kind.from_pretrained(source, trust_remote_code=not stock, output_loading_info=True)
        if found["missing_keys"]:  # it would answer at random
            raise DemoError(f"it lacks {sorted(found['missing_keys'])[0]}, so it is no {kind.__name__[9:]} model.")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=not stock)
        return Model(name, source, model.eval(), tokenizer, freeze(model, tokenizer))
    except Exception as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        words = re.sub(r"(/[\w.@-]+){2,}", lambda path: Path(path.group(0)).name, words)[:300]
        raise DemoError(f"The model {Path(source).name} cannot be opened: {words}") from error


def freeze(model: Any, tokenizer: Any) -> FrozenRuntime | None:
    """A committee as tables; None for a model that is none, or has members of several layers or with convolutions."""
    try:
        frozen = model.freeze(cls_token_id=tokenizer.cls_token_id)
    except (AttributeError, ValueError):
        return None
    with tempfile.TemporaryDirectory() as folder:  # its files are mapped, so they live as long as the tables
        tokenizer.save_pretrained(folder)
        frozen.save_pretrained(folder, max_shard_size="1TB")
        return FrozenRuntime(Path(folder))


def take_members(frozen: FrozenRuntime, places: list[int]) -> FrozenRuntime:
    """The tables of some members, and what all share: what the words say."""
    part, shared = copy(frozen), {name: table for name, table in frozen.tables.items() if name.startswith("lexical.")}
    own = {name: table for name, table in frozen.tables.items() if name not in shared}
    part.tables = shared | {name: table.take(places, axis=MEMBER_AXIS.get(name, 0)) for name, table in own.items()}
    part.members = len(places)
    return part


@dataclass
class Answer:
    """What one text gets: probabilities of the committee (labels,) and its members (members, labels).

    `falls` says by how much the answer's probability falls when a word of `words` is left out; `milliseconds` are those
    of the answer alone, tokenisation included.
    """

    labels: list[str]
    probabilities: np.ndarray
    members: np.ndarray
    words: list[str]
    falls: np.ndarray
    milliseconds: float
    notes: list[str]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def votes(self) -> dict[str, int]:
        """How many members name each class that any names, the most first."""
        counts = np.bincount(self.members.argmax(axis=-1), minlength=len(self.labels))
        return {self.labels[place]: int(counts[place]) for place in np.argsort(-counts, kind="stable") if counts[place]}

    @property
    def entropy(self) -> float:
        """Of the members' mean probability, before calibration, in nats."""
        return float(entropy(self.members.mean(axis=0)))


def classify(text: Any, committee: Model, *, leave_out: bool = True) -> Answer:
    """Classify a text; DemoError for an empty one.

    With `leave_out`, and tables, the text is answered once more without each of its words, all in one batch.
    """
    text, notes = clean_text(text)
    start = time.perf_counter()
    logits = committee.logits([text])
    probabilities = committee.combine(logits)[0]
    milliseconds = 1000 * (time.perf_counter() - start)
    total = len(committee.tokenizer(text, verbose=False)["input_ids"])
    notes += [f"The text has {total:,} tokens; the models read the first {committee.longest}."] * (
        total > committee.longest
    )
    words = text.split()
    count = min(len(words), MOST_WORDS) if leave_out and committee.frozen is not None and len(words) > 1 else 0
    falls = np.zeros(count)
    if count:
        without = [" ".join(words[:place] + words[place + 1 :]) for place in range(count)]
        best = probabilities.argmax()
        falls = probabilities[best] - committee.combine(committee.logits(without))[:, best]
    members = softmax(logits[0].astype(float), axis=-1)
    return Answer(committee.labels, probabilities, members, words, falls, milliseconds, notes)


@dataclass
class Entrant:
    """One of the race: how it answers a text, how many it has answered, and in how many seconds."""

    name: str
    answer: Any
    done: int = 0
    seconds: float = 0.0


def race(entrants: list[Entrant], texts: list[str]) -> Iterator[list[Entrant]]:
    """Each answers the texts one by one, in slices of time in turn; a clock runs only in its entrant's own slices."""
    for entrant in entrants:  # warm
        entrant.answer(texts[:1])
    end = time.monotonic() + LONGEST_RACE
    while any(entrant.done < len(texts) for entrant in entrants) and time.monotonic() < end:
        for entrant in entrants:
            start = time.perf_counter()
            while entrant.done < len(texts) and time.perf_counter() - start < SLICE:
                entrant.answer(texts[entrant.done : entrant.done + 1])
                entrant.done += 1
            entrant.seconds += time.perf_counter() - start
        yield entrants


def processor() -> str:
    """Name of this machine's processor, and how many cores there are."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", file.read_text(encoding="utf-8")) if file.is_file() else []
    return f"{names[0] if names else 'an unknown processor'}, {os.cpu_count()} cores"


def from_scratch(other: Model) -> Model:
    """The same architecture with new weights: what an encoder knows before pre-training."""
    torch.manual_seed(0)
    model = type(other.model)(other.model.config).eval()
    return Model(f"{other.name}, not pre-trained", "", model, other.tokenizer)


@torch.inference_mode()
def fill_masks(text: Any, encoder: Model, top: int = 5) -> tuple[list[dict[str, float]], list[str]]:
    """The most likely tokens of each [MASK] with their probabilities, and notes; DemoError without any mask."""
    words, notes = clean_text(text)
    mask, limit = encoder.tokenizer.mask_token, encoder.longest
    words = re.sub(r"\[mask\]", mask, words, flags=re.IGNORECASE)
    masks = words.count(mask)
    if not 1 <= masks <= MOST_MASKS:
        raise DemoError(f"There are {masks or 'no'} [MASK] in the text: write one to {MOST_MASKS}.")
    batch = encoder.encode([words])
    places = (batch["input_ids"][0] == encoder.tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not places:
        raise DemoError(f"No [MASK] is in the first {limit} tokens, which are all that is read: shorten the text.")
    if len(places) < masks:
        notes.append(
            f"Only {len(places)} of {masks} masks are in the first {limit} tokens, which are all that is read."
        )
    values, tokens = encoder.model(**batch).logits[0, places].softmax(-1).topk(top)
    names = [encoder.tokenizer.convert_ids_to_tokens(ids) for ids in tokens.tolist()]
    return [dict(zip(*pair, strict=True)) for pair in zip(names, values.tolist(), strict=True)], notes
