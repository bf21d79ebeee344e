# SPDX-License-Identifier: Apache-2.0
"""A frozen committee without torch: texts to labels by numpy and tokenizers alone.

    model = load("folder or Hub name")
    model("one text")             # {"label": ..., "score": ..., "truncated": False}
    model(["one", "two"])         # a list of these
    model.probabilities(texts)    # float32 (texts, classes)

`tlm freeze` copies this file into the folder as `tlm_runtime.py`, where it needs nothing of the package. The tables are
memory-mapped and never written, so threads may share a model and processes share its memory. `modeling_frozen.py` in
the same folder has the mathematics.
"""

import hashlib
import json
import mmap
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

TYPES = {"F32": np.float32, "F16": np.float16, "I8": np.int8, "U8": np.uint8}
BATCH = 256
"""Texts that go through the layers together."""
MULTIPLIER = 40503
"""As `lexical_committee.py` has it."""
REMEMBERED = 2**18
"""Letters of words whose tokens are remembered: about 10 MB."""
ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
"""Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26, from the highest power: good to 1.5e-7."""


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, float32."""
    size = np.abs(x)
    part = 1 / (1 + np.float32(0.3275911) * size)
    result = np.zeros_like(x)
    for coefficient in ERF:
        result += np.float32(coefficient)
        result *= part
    size *= -size
    result *= np.exp(size)
    return np.copysign(1 - result, x)


ACTIVATIONS = {
    "gelu": lambda x: np.float32(0.5) * x * (1 + erf(x * np.float32(0.5**0.5))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """Softmax along an axis."""
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    exponentials /= exponentials.sum(axis=axis, keepdims=True)
    return exponentials


def read_tables(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as read-only views of the mapped file; ValueError where it is damaged."""
    try:
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(mapped[:8], "little")
        tables = {}
        for name, entry in json.loads(mapped[8:start]).items():
            if name != "__metadata__":
                kind, (begin, end) = np.dtype(TYPES[entry["dtype"]]), entry["data_offsets"]
                count = (end - begin) // kind.itemsize
                tables[name] = np.frombuffer(mapped, kind, count, start + begin).reshape(entry["shape"])
        return tables
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is truncated or damaged ({error}): restore it from where it came.") from error


def table_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors by `config.json`."""
    members, words, longest = config["num_members"], config["vocab_size"], config["max_position_embeddings"]
    hidden, heads, inner = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    int8, size = config["table_dtype"] == "int8", hidden // heads
    shapes: dict[str, tuple[int, ...]] = {"values": (words, members, heads, size + 8 * int8)}
    shapes |= {"scale": (words, longest, members), "position_values": (members, heads, longest, size)}
    shapes |= {"scores": (words, members, heads), "position_scores": (longest, members, heads)}
    shapes["gain"] = (members, 1, hidden)
    ends = {"attention_output": (hidden, hidden), "intermediate": (hidden, inner), "output": (inner, hidden)}
    ends |= {"pooler": (hidden, hidden), "classifier": (hidden, len(config["id2label"]))}
    for name, (inputs, outputs) in ends.items():
        shapes |= {f"{name}.weight": (members, inputs, outputs), f"{name}.bias": (members, 1, outputs)}
        if int8 and name != "classifier":
            shapes |= {f"{name}.weight": (members, outputs, inputs), f"{name}.step": (members, outputs)}
    if buckets := config.get("lexical_buckets", 0):
        classes = len(config["id2label"])
        shapes |= {"lexical.weight": (words + buckets, classes), "lexical.idf": (words,), "lexical.bias": (classes,)}
    return shapes


def splits_at_spaces(tokenizer: dict[str, Any]) -> bool:
    """Whether what is between spaces has the same tokens whatever is around it: BERT's rules, by `tokenizer.json`."""
    parts = [(tokenizer[name] or {}).get("type") for name in ("normalizer", "pre_tokenizer")]
    added = [each["lstrip"] or each["rstrip"] or " " in each["content"] for each in tokenizer["added_tokens"]]
    return parts == ["BertNormalizer", "BertPreTokenizer"] and not any(added)


class FrozenRuntime:
    """A frozen committee in a folder; use `load`. Calls change nothing, so any number of threads may make them."""

    def __init__(self, folder: Path) -> None:
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} has no {name}: name a folder that `tlm freeze` wrote.")
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config.setdefault("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers leaves out its default
            self.labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
            shapes = table_shapes(config)
            self.activation = ACTIVATIONS[config["hidden_act"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder}/config.json is not that of a frozen committee (see {error}).") from error
        tables = read_tables(folder / "model.safetensors")
        for name in shapes.keys() | tables.keys():
            shape = tables[name].shape if name in tables else None
            if shape != shapes.get(name):
                raise ValueError(f"{folder}/model.safetensors has {name} {shape}, by config.json {shapes.get(name)}.")
        self.tokenizer = self._open_tokenizer(folder / "tokenizer.json", config)
        self.special, self.longest = self.tokenizer.encode("").ids, config["max_position_embeddings"]
        self.splits_at_spaces = splits_at_spaces(json.loads(self.tokenizer.to_str()))
        self.words: dict[str, list[int]] = {}
        self.room = REMEMBERED
        self.temperature, self.combination = np.float32(config["temperature"]), config["combination"]
        self.eps, self.members = np.float32(config["layer_norm_eps"]), config["num_members"]
        for name in [name for name in tables if name.endswith(".step")]:  # what every text reads becomes float32
            weight = name.replace("step", "weight")
            tables[weight] = np.ascontiguousarray((tables[weight] * tables.pop(name)[..., None]).transpose(0, 2, 1))
        self.tables = tables

    @staticmethod
    def _open_tokenizer(file: Path, config: dict[str, Any]) -> Tokenizer:
        content, sha256 = file.read_bytes(), config.get("tokenizer_sha256")
        try:
            tokenizer = Tokenizer.from_str(content.decode())
            tokenizer.no_padding()
            tokenizer.no_truncation()
        except Exception as error:  # what tokenizers raises is an Exception itself
            raise ValueError(f"{file} is damaged: restore it from where it came.") from error
        same = sha256 in (None, hashlib.sha256(content).hexdigest())
        if not same or tokenizer.encode("").ids[:1] != [config["cls_token_id"]]:
            raise ValueError(f"{file} is another tokenizer than the committee's: restore it from where it came.")
        return tokenizer

    def __call__(self, texts: str | list[str]) -> Any:
        """Label, score and whether the text was cut, for one text or for each of a list."""
        ids, truncated = self.encode([texts] if isinstance(texts, str) else texts)
        records = [
            {"label": self.labels[row.argmax()], "score": float(row.max()), "truncated": cut}
            for row, cut in zip(self._probabilities(self.member_logits(ids)), truncated, strict=True)
        ]
        return records[0] if isinstance(texts, str) else records

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """The committee's probabilities, float32 (texts, classes)."""
        return self._probabilities(self.member_logits(self.encode(texts)[0]))

    def encode(self, texts: list[str]) -> tuple[list[list[int]], list[bool]]:
        """Token ids of each text, and whether it was cut; what is between spaces is encoded once and remembered."""
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("Every text must be a string.")
        split = [text.split(" ") if self.splits_at_spaces else [text] for text in texts]
        known = self.words  # a thread keeps its own, should another one begin a new one
        new = list({word for words in split for word in words if word not in known})
        if new:
            encoding = self.tokenizer.encode(new, is_pretokenized=True, add_special_tokens=False)
            ids, ends = encoding.ids, np.searchsorted(np.array(encoding.word_ids), np.arange(1, len(new) + 1)).tolist()
            known.update((word, ids[start:end]) for word, start, end in zip(new, [0, *ends], ends, strict=False))
        bodies = [list(chain.from_iterable(map(known.__getitem__, words))) for words in split]
        self.room -= sum(map(len, new))
        if self.room < 0:
            self.words, self.room = {}, REMEMBERED
        (first, *last), room = self.special, self.longest - len(self.special)
        return [[first, *body[:room], *last] for body in bodies], [len(body) > room for body in bodies]

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        if self.combination == "logits":
            return softmax(logits.mean(axis=1) / self.temperature, axis=-1)
        mean = softmax(logits, axis=-1).mean(axis=1)
        powers = np.maximum(mean, np.finfo(np.float32).tiny) ** (1 / self.temperature)
        return powers / powers.sum(axis=-1, keepdims=True)

    def member_logits(self, ids: list[list[int]]) -> np.ndarray:
        """Each member's logits, float32 (texts, members, classes), of texts as token ids that start with [CLS]."""
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        logits = np.empty((len(ids), self.members, len(self.labels)), np.float32)
        for start in range(0, len(ids), BATCH):
            rows = order[start : start + BATCH]
            logits[rows] = self._batch([ids[row] for row in rows])
        if ids and "lexical.weight" in self.tables:
            logits += np.stack([self._by_words(np.array(text)) for text in ids])[:, None]
        return logits

    def _by_words(self, text: np.ndarray) -> np.ndarray:
        """What the words of a text (tokens,) and their pairs say of its class, float32 (classes,)."""
        weight, idf = self.tables["lexical.weight"], self.tables["lexical.idf"]
        words, counts = np.unique(text, return_counts=True)
        shares = 1 + np.log(counts, dtype=np.float32)
        pairs = len(idf) + (text[:-1] * MULTIPLIER + text[1:]) % (len(weight) - len(idf))
        sums = shares @ weight[words] + weight[pairs].sum(axis=0)
        return sums / max(np.linalg.norm(shares * idf[words]), 1) + self.tables["lexical.bias"]

    def _batch(self, ids: list[list[int]]) -> np.ndarray:
        states = self._norm(self._dense("attention_output", self._pool(ids)))
        inner = self._dense("intermediate", states)
        for member in inner:  # one at a time stays in the processor's cache
            member[...] = self.activation(member)
        states = self._norm(self._dense("output", inner) + states * self.tables["gain"])
        return self._dense("classifier", np.tanh(self._dense("pooler", states))).transpose(1, 0, 2)

    def _pool(self, texts: list[list[int]]) -> np.ndarray:
        """Attention from [CLS]: token ids of each text to contexts, float32 (members, texts, hidden)."""
        tables, lengths = self.tables, np.array([len(text) for text in texts])
        places = np.arange(lengths.max())
        mask = places < lengths[:, None]
        ids = np.zeros(mask.shape, np.intp)
        ids[mask] = np.concatenate(texts)
        scale = tables["scale"][ids, places][..., None]  # (texts, length, members, 1)
        scores = tables["scores"].take(ids, axis=0)
        scores += tables["position_scores"][: len(places)]
        scores *= scale
        scores[~mask] = -np.inf
        weights = softmax(scores, axis=1) * scale  # (texts, length, members, heads)
        weights = np.ascontiguousarray(weights.transpose(2, 3, 0, 1))
        context = np.matmul(weights, tables["position_values"][:, :, : len(places)])  # (members, heads, texts, size)
        for text, length in enumerate(lengths):
            values = self._values(ids[text, :length]).transpose(1, 2, 0, 3)
            context[:, :, text] += np.matmul(weights[:, :, text, None, :length], values)[:, :, 0]
        context = context.transpose(0, 2, 1, 3)
        return context.reshape(*context.shape[:2], -1)

    def _values(self, ids: np.ndarray) -> np.ndarray:
        """The words' value rows, float32 (words, members, heads, size)."""
        rows = self.tables["values"].take(ids, axis=0)
        if rows.dtype != np.uint8:
            return rows.astype(np.float32, copy=False)
        ends = np.ascontiguousarray(rows[..., -8:]).view(np.float32)  # behind the bytes: step and least value
        return rows[..., :-8] * ends[..., :1] + ends[..., 1:]

    def _dense(self, name: str, states: np.ndarray) -> np.ndarray:
        product = np.matmul(states, self.tables[f"{name}.weight"])
        product += self.tables[f"{name}.bias"]
        return product

    def _norm(self, states: np.ndarray) -> np.ndarray:
        states = states - states.mean(axis=-1, keepdims=True)
        states /= np.sqrt((states * states).mean(axis=-1, keepdims=True) + self.eps)
        return states


def load(source: str | Path) -> FrozenRuntime:
    """Open a folder or Hub name; ValueError, in one sentence, where it is no whole frozen committee."""
    folder = Path(source).expanduser()
    if not folder.is_dir() and str(source).count("/") == 1:
        from huggingface_hub import snapshot_download  # comes with tokenizers

        folder = Path(snapshot_download(str(source)))
    return FrozenRuntime(folder)


class EndpointHandler:
    """Hugging Face Inference Endpoints: `handler.py` in the folder imports it from here."""

    def __init__(self, path: str = "") -> None:
        self.model = load(path)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """`{"inputs": text or texts}` to a list of labels and scores."""
        inputs = data["inputs"]
        return self.model([inputs] if isinstance(inputs, str) else inputs)
