"""The models behind the Space: committees, masked language models, the race. Nothing of Gradio here."""

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import entropy
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedConfig
from transformers.models.bert import BertConfig, BertForSequenceClassification

try:
    from tlm_runtime import FrozenRuntime, softmax  # a staged Space has the file beside this one
except ModuleNotFoundError:
    from tlm_hf.runtime import FrozenRuntime, softmax

LONGEST_TEXT = 20_000  # characters that are looked at; no encoder here reads more tokens than a fraction of them holds
MOST_MASKS, LIKELIEST = 10, 5
MOST_WORDS = 60  # words of a text that are left out in turn
MOST_TOKENS = 512  # of a text
SLICE, LONGEST_RACE = 0.04, 30.0  # seconds that an entrant of the race runs before the next one does, and of the race
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
PATH = re.compile(r"(/[\w.@-]+){2,}")


class DemoError(Exception):
    """What a visitor reads when something is not as it must be."""


def without_paths(error: Exception) -> str:
    """The first line of an error, with the names alone of the files in it."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return PATH.sub(lambda path: Path(path.group(0)).name, line)[:300]


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
    def longest(self) -> int:
        """Tokens of a text that are read: by members, or by a committee's table of words, which may read more."""
        return min(int(self.tokenizer.model_max_length), MOST_TOKENS)

    def encode(self, texts: list[str]) -> Any:
        """Token ids and mask of texts, cut and padded; the options are the tokenizer's state, which visitors share."""
        options = {"truncation": True, "max_length": self.longest, "padding": True, "return_token_type_ids": False}
        return self.tokenizer(texts, return_tensors="pt", **options)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, also of what is cut."""
        (first,) = self.encode([text]).encodings
        return len(first) + sum(len(rest) - 2 for rest in first.overflowing)  # each has [CLS] and [SEP]

    @torch.inference_mode()
    def by_torch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `answer`, without the tables."""
        output = self.model(**self.encode(texts))
        return output.logits.softmax(-1).numpy(), getattr(output, "member_logits", output.logits).numpy()

    def answer(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """A committee's probabilities (texts, labels), and its members' logits (texts, members, labels)."""
        if self.frozen is None:
            return self.by_torch(texts)
        logits = self.frozen.member_logits(self.frozen.encode(texts)[0])
        return self.frozen.combine(logits), logits


def load(source: str, name: str = "", *, masked: bool = False) -> Model:
    """Open a folder or Hub name, with its code unless it is a stock BERT; freeze a committee. May raise DemoError."""
    kind = AutoModelForMaskedLM if masked else AutoModelForSequenceClassification
    try:
        trust = PreTrainedConfig.get_config_dict(source)[0].get("model_type") != "bert"
        model, found = kind.from_pretrained(source, trust_remote_code=trust, output_loading_info=True)
        if found["missing_keys"]:  # it would answer at random
            lacking, use = min(found["missing_keys"]), "fill masks" if masked else "classify"
            raise DemoError(f"it lacks {lacking}, so it cannot {use}.")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust)
        return Model(name, source, model.eval(), tokenizer, freeze(model, tokenizer))
    except Exception as error:
        raise DemoError(f"The model {Path(source).name} cannot be opened: {without_paths(error)}") from error


def freeze(model: Any, tokenizer: Any) -> FrozenRuntime | None:
    """A committee as tables; None for a model that is none, or has members of several layers or with convolutions."""
    try:
        frozen = model.freeze(cls_token_id=tokenizer.cls_token_id)
    except (AttributeError, ValueError):
        return None
    with tempfile.TemporaryDirectory() as folder:  # its files are mapped, so they live as long as the tables
        tokenizer.save_pretrained(folder)
        frozen.config.max_tokens = min(int(tokenizer.model_max_length), MOST_TOKENS)
        frozen.save_pretrained(folder, max_shard_size="1TB")
        return FrozenRuntime(Path(folder))


@dataclass
class Answer:
    """What one text gets: probabilities (labels,) and members' (members, labels), and `falls` without each word.

    `votes` counts the members that name a class, most first; `entropy` is that of their mean, in nats, uncalibrated.
    """

    label: str
    labels: list[str]
    probabilities: np.ndarray
    members: np.ndarray
    votes: dict[str, int]
    entropy: float
    words: list[str]
    falls: np.ndarray
    milliseconds: float
    notes: list[str]


def classify(text: Any, committee: Model, *, leave_out: bool = True) -> Answer:
    """Classify a text; with `leave_out`, and tables, answer once more without each of its words, all in one batch."""
    text, notes = clean_text(text)
    start = time.perf_counter()
    (probabilities,), (logits,) = committee.answer([text])
    milliseconds = 1000 * (time.perf_counter() - start)
    total, longest = committee.count_tokens(text), committee.longest
    members = min(longest, committee.frozen.positions) if committee.frozen else longest
    if total > members:
        whole = f", and their table of words {longest}" if longest > members else ""
        notes.append(f"The text has {total:,} tokens; the models read the first {members}{whole}.")
    words, falls, best = text.split(), np.zeros(0), int(probabilities.argmax())
    if leave_out and committee.frozen is not None and len(words) > 1:
        without = [" ".join(words[:place] + words[place + 1 :]) for place in range(min(len(words), MOST_WORDS))]
        falls = probabilities[best] - committee.answer(without)[0][:, best]
    labels = [str(name) for _, name in sorted(committee.model.config.id2label.items())]
    members = softmax(logits.astype(float), axis=-1)
    votes = dict(Counter(labels[place] for place in sorted(members.argmax(axis=-1))).most_common())
    spread = float(entropy(members.mean(axis=0)))
    return Answer(labels[best], labels, probabilities, members, votes, spread, words, falls, milliseconds, notes)


@dataclass
class Entrant:
    """One of the race: how it answers a text, how many it has answered, and in how many seconds."""

    name: str
    answer: Callable[[list[str]], Any]
    is_deep: bool = False
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


def untrained_bert(committee: Model) -> Model:
    """A stock BERT of six layers, each as wide as a member's: its weights are random, so only its speed counts."""
    shape = {"num_hidden_layers": 6, "max_position_embeddings": committee.longest}
    config = BertConfig(**(committee.model.config.member_configs[0] | shape))
    return Model("", "", BertForSequenceClassification(config).eval(), committee.tokenizer)


def from_scratch(other: Model) -> Model:
    """The same architecture with new weights: what an encoder knows before pre-training."""
    torch.manual_seed(0)
    model = type(other.model)(other.model.config).eval()
    return Model(f"{other.name}, not pre-trained", "", model, other.tokenizer)


@torch.inference_mode()
def fill_masks(text: Any, encoder: Model) -> list[dict[str, float]]:
    """The likeliest tokens of each [MASK]; DemoError without one, with too many, or for a long text."""
    tokenizer = encoder.tokenizer
    words = re.sub(r"\[mask\]", tokenizer.mask_token, clean_text(text)[0], flags=re.IGNORECASE)
    batch = tokenizer(words, return_tensors="pt", return_token_type_ids=False, verbose=False)
    ids = batch["input_ids"][0]
    is_mask = ids == tokenizer.mask_token_id
    masks = int(is_mask.sum())
    if not 1 <= masks <= MOST_MASKS:
        raise DemoError(f"There are {masks or 'no'} [MASK] in the text: write one to {MOST_MASKS}.")
    if len(ids) > encoder.longest:
        raise DemoError(f"The text has {len(ids):,} tokens, and the encoders read {encoder.longest}: shorten it.")
    shares, tokens = encoder.model(**batch).logits[0, is_mask].softmax(-1).topk(LIKELIEST)
    names = map(tokenizer.convert_ids_to_tokens, tokens.tolist())
    return [dict(zip(*pair, strict=True)) for pair in zip(names, shares.tolist(), strict=True)]
