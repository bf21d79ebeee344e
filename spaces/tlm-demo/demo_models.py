"""The models behind the Space: loading them, classifying, attention, filling masks. Nothing of Gradio here."""

import html
import os
import re
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

LONGEST_TEXT = 20_000
"""Characters of a text that are looked at; no encoder here reads more tokens than a fraction of them holds."""
MOST_MASKS = 10
TIMED_RUNS = 3
"""Each text is run several times to time the models; the answer is one of the runs."""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class DemoError(Exception):
    """What a visitor reads when something is not as it must be."""


def plain(text: Any) -> str:
    """The text without control characters, and without halves of characters, which no tokenizer takes."""
    return CONTROL.sub(" ", str(text or "").encode("utf-8", "replace").decode("utf-8")).strip()


def clean_text(text: Any) -> tuple[str, str]:
    """The text without control characters, cut to `LONGEST_TEXT`, and a note about it; DemoError if nothing is left."""
    words = plain(text)
    if not words:
        raise DemoError("The text is empty: write a sentence.")
    if len(words) > LONGEST_TEXT:
        return words[:LONGEST_TEXT], f"Only the first {LONGEST_TEXT:,} of {len(words):,} characters were looked at."
    return words, ""


def read_tokens(tokenizer: Any) -> int:
    """Tokens of a text that the models of a tokenizer read, at most."""
    return min(int(tokenizer.model_max_length), 512)


@dataclass
class Classifier:
    """A model with its tokenizer and class names in the model's order."""

    model: Any
    tokenizer: Any
    labels: list[str]


def load_classifier(source: str, trust: bool) -> Classifier:
    """Open a folder or Hub name as a classifier; DemoError where that fails."""
    try:
        model = _whole(AutoModelForSequenceClassification, source, trust)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust)
        labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
        return Classifier(model, tokenizer, labels)
    except Exception as error:
        raise DemoError(f"The model {Path(source).name} cannot be opened: {_first_line(error)}") from error


def _whole(kind: Any, source: str, trust: bool) -> Any:
    """Open a model; one whose head is not in the folder would answer at random."""
    model, found = kind.from_pretrained(source, trust_remote_code=trust, output_loading_info=True)
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])[0]
        raise DemoError(f"it lacks {missing}, so it is no {kind.__name__.removeprefix('AutoModelFor')} model.")
    return model.eval()


def _first_line(error: BaseException) -> str:
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"(/[\w.@-]+){2,}", lambda found: Path(found.group(0)).name, words)[:300]


@dataclass
class Answer:
    """What one text gets: probabilities of the committee (labels,), its members (members, labels), the deep encoder.

    Agreement is the share of members that name the committee's class; entropies are in nats, before calibration;
    milliseconds are medians and include tokenisation; attention is (tokens,), None where no member shows it.
    """

    labels: list[str]
    probabilities: np.ndarray
    members: np.ndarray
    deep: np.ndarray | None
    agreement: float
    entropy: float
    mutual_information: float
    milliseconds: dict[str, float]
    notes: list[str]
    tokens: list[str]
    attention: np.ndarray | None


LOCK = threading.Lock()
"""Timed runs are not measured while another visitor's text is being timed."""


@torch.inference_mode()
def classify(text: str, committee: Classifier, deep: Classifier | None) -> Answer:
    """Classify a text by a committee, and by a deep encoder beside it; DemoError for an empty text."""
    words, note = clean_text(text)
    notes = [note] if note else []
    batch = _encode(committee, words)
    total = len(committee.tokenizer(words, verbose=False)["input_ids"])
    read = batch["input_ids"].shape[1]
    if total > read:
        notes.append(f"The text has {total:,} tokens; the models read the first {read}.")
    sides = {"committee": committee}
    if deep is not None and sorted(deep.labels) == sorted(committee.labels):
        sides["deep"] = deep
    elif deep is not None:
        notes.append("The deep encoder knows other classes, so it is left out.")
    outputs, times = _run_timed(sides, words)
    output = outputs["committee"]
    member_logits = getattr(output, "member_logits", None)
    members = (output.logits[:, None] if member_logits is None else member_logits)[0].softmax(-1).numpy()
    probabilities = output.logits[0].softmax(-1).numpy()
    entropy = _entropy(members.mean(axis=0))
    deep_probabilities = None
    if deep is not None and "deep" in outputs:  # by name: the order may be another one
        found = outputs["deep"].logits[0].softmax(-1).numpy()
        deep_probabilities = found[[deep.labels.index(label) for label in committee.labels]]
    return Answer(
        labels=committee.labels,
        probabilities=probabilities,
        members=members,
        deep=deep_probabilities,
        agreement=float((members.argmax(axis=-1) == probabilities.argmax()).mean()),
        entropy=entropy,
        mutual_information=max(0.0, entropy - float(np.mean([_entropy(member) for member in members]))),
        milliseconds={name: statistics.median(values) for name, values in times.items()},
        notes=notes,
        tokens=committee.tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist()),
        attention=_mean_attention(committee.model, batch["input_ids"]),
    )


def _mean_attention(model: Any, input_ids: torch.Tensor) -> np.ndarray | None:
    """Mean of `cls_attention` over heads and one-layer members (what a convolution attends to are no tokens)."""
    found = []
    for member in getattr(model, "members", []):
        one_layer = getattr(member.config, "num_hidden_layers", 0) == 1
        if hasattr(member, "bert") and one_layer and not getattr(member.config, "conv_kernel_sizes", None):
            found.append(cls_attention(member.bert, input_ids).mean(axis=0))
    return np.mean(found, axis=0) if found else None


def _entropy(probabilities: np.ndarray) -> float:
    return float(-(probabilities * np.log(probabilities + 1e-12)).sum())


def _encode(side: Classifier, words: str) -> Any:
    return side.tokenizer(
        words, truncation=True, max_length=read_tokens(side.tokenizer), return_tensors="pt", return_token_type_ids=False
    )


def _run_timed(sides: dict[str, Classifier], words: str) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What each model says, and the milliseconds of its runs: the answer is one of them, so none is wasted."""
    outputs: dict[str, Any] = {}
    times: dict[str, list[float]] = {name: [] for name in sides}
    with LOCK:
        for _ in range(TIMED_RUNS):
            for name, side in sides.items():
                start = time.perf_counter()
                outputs[name] = side.model(**_encode(side, words))
                times[name].append(1000 * (time.perf_counter() - start))
    return outputs, times


def cls_attention(encoder: Any, input_ids: torch.Tensor) -> np.ndarray:
    """Weights with which [CLS] reads each token in the first layer of a BERT, (heads, tokens), for ids (1, tokens).

    It is softmax(q k / sqrt(d)) of its row alone: `output_attentions=True` would run the whole layer.
    """
    hidden_states = encoder.embeddings(input_ids=input_ids, token_type_ids=None, position_ids=None, inputs_embeds=None)
    attention, heads = encoder.encoder.layer[0].attention.self, encoder.config.num_attention_heads
    query = attention.query(hidden_states[0, 0]).view(heads, -1, 1)
    key = attention.key(hidden_states[0]).view(len(hidden_states[0]), heads, -1).transpose(0, 1)
    return (key @ query / query.shape[1] ** 0.5).squeeze(-1).softmax(dim=-1).numpy()


@dataclass
class MaskFiller:
    """An encoder with its language-model head, and the name that visitors read."""

    name: str
    model: Any
    tokenizer: Any


def load_filler(name: str, source: str, trust: bool) -> MaskFiller:
    """Open a folder or Hub name as a masked language model; DemoError where that fails."""
    try:
        model = _whole(AutoModelForMaskedLM, source, trust)
        return MaskFiller(name, model, AutoTokenizer.from_pretrained(source, trust_remote_code=trust))
    except Exception as error:
        raise DemoError(f"The encoder {Path(source).name} cannot be opened: {_first_line(error)}") from error


def from_scratch(other: MaskFiller) -> MaskFiller:
    """The same architecture with new weights: what an encoder knows before pre-training."""
    torch.manual_seed(0)
    model = type(other.model)(other.model.config).eval()
    return MaskFiller(f"{other.name}, not pre-trained", model, other.tokenizer)


@torch.inference_mode()
def fill_masks(text: str, filler: MaskFiller, top: int = 5) -> tuple[list[list[tuple[str, float]]], str]:
    """The most likely tokens of each [MASK], and a note where some were not looked at; DemoError without any."""
    words, note = clean_text(text)
    words = re.sub(r"\[mask\]", filler.tokenizer.mask_token, words, flags=re.IGNORECASE)
    masks = words.count(filler.tokenizer.mask_token)
    if not masks:
        raise DemoError("There is no [MASK] in the text: write [MASK] where a word is to be filled in.")
    if masks > MOST_MASKS:
        raise DemoError(f"There are {masks} masks in the text: leave at most {MOST_MASKS}.")
    limit = read_tokens(filler.tokenizer)
    batch = filler.tokenizer(words, truncation=True, max_length=limit, return_tensors="pt", return_token_type_ids=False)
    places = (batch["input_ids"][0] == filler.tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not places:
        raise DemoError(f"No [MASK] is in the first {limit} tokens, which are all that is read: shorten the text.")
    if len(places) < masks:
        note = f"Only {len(places)} of {masks} masks are in the first {limit} tokens, which are all that is read."
    probabilities = filler.model(**batch).logits[0, places].softmax(-1)
    values, tokens = probabilities.topk(top)
    return [
        list(zip(filler.tokenizer.convert_ids_to_tokens(ids.tolist()), chances.tolist(), strict=True))
        for ids, chances in zip(tokens, values, strict=True)
    ], note


def escape(text: Any) -> str:
    """Text as it is to be shown in HTML: never run, whatever it holds."""
    return html.escape(str(text), quote=True)


def named(variable: str) -> dict[str, str]:
    """`NAME=value,NAME=value` of an environment variable."""
    found = {}
    for part in filter(None, os.environ.get(variable, "").split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise DemoError(f"{variable} has {part!r}: write NAME=owner/name, separated by commas.")
        found[name.strip()] = value.strip()
    return found
