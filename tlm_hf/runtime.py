# SPDX-License-Identifier: Apache-2.0
"""A frozen committee without torch: texts to labels by numpy and tokenizers alone.

    model = load("folder or Hub name")
    model("one text")             # {"label": ..., "score": ..., "truncated": False}
    model(["one", "two"])         # a list of these
    model([("one", "two")])       # pairs of texts, where it was frozen with token types
    model.probabilities(texts)    # float32 (texts, classes)

`tlm freeze` copies this file into the folder as `tlm_runtime.py`; `modeling_frozen.py` there has the mathematics.
Tables are memory-mapped and never written, so threads may share a model, and processes its memory.
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
BATCH = 256  # texts that go through the layers together
MULTIPLIER, PRIME = 40503, 65537  # as `lexical_committee.py` has them
REMEMBERED = 2**18  # letters of words whose tokens are remembered: about 10 MB
LAYERS = {"attention_output": ("hidden", "hidden"), "intermediate": ("hidden", "inner"), "output": ("inner", "hidden")}
LAYERS |= {"pooler": ("hidden", "hidden"), "classifier": ("hidden", "classes")}  # the sizes are in `table_shapes`
TABLES = {"values": "words members heads row", "scores": "words members heads", "scale": "words places members"}
TABLES |= {"position_scores": "places members heads", "position_values": "members heads places size"}
LEXICAL = {"lexical.weight": "rows classes", "lexical.bias": "classes"}
LEXICAL |= {"lexical.idf": "words", "lexical.continues": "words"}
ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0), "silu": lambda x: x / (1 + np.exp(-x))}
ACTIVATIONS["gelu"] = lambda x: np.float32(0.5) * x * (1 + erf(x * np.float32(0.5**0.5)))


def erf(x: np.ndarray) -> np.ndarray:
    """The error function to 1.5e-7, float32: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26."""
    size = np.abs(x)
    part, result = 1 / (1 + np.float32(0.3275911) * size), np.zeros_like(x)
    for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        result += np.float32(coefficient)
        result *= part
    size *= -size
    result *= np.exp(size)
    return np.copysign(1 - result, x)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """Softmax along an axis."""
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    exponentials /= exponentials.sum(axis=axis, keepdims=True)
    return exponentials


def read_tables(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as read-only views of the mapped file."""
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    start, tables = 8 + int.from_bytes(mapped[:8], "little"), {}
    for name, entry in json.loads(mapped[8:start]).items():
        if name != "__metadata__":
            kind, (begin, end) = np.dtype(TYPES[entry["dtype"]]), entry["data_offsets"]
            count = (end - begin) // kind.itemsize
            tables[name] = np.frombuffer(mapped, kind, count, start + begin).reshape(entry["shape"])
    return tables


def table_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors by `config.json`."""
    int8, buckets, words = config["table_dtype"] == "int8", config.get("lexical_buckets", 0), config["vocab_size"]
    hidden, heads, positions = config["hidden_size"], config["num_attention_heads"], config["max_position_embeddings"]
    sizes = {"1": 1, "members": config["num_members"], "words": words, "rows": words + 2 * buckets}
    sizes |= {"classes": len(config["id2label"]), "hidden": hidden, "inner": config["intermediate_size"]}
    sizes |= {"heads": heads, "size": hidden // heads}
    sizes |= {"row": hidden // heads + 8 * int8, "places": positions * config.get("type_vocab_size", 1)}
    shapes = {"gain": "members 1 hidden"} | TABLES | (LEXICAL if buckets else {})
    for name, (start, end) in LAYERS.items():
        shapes |= {f"{name}.weight": f"members {start} {end}", f"{name}.bias": f"members 1 {end}"}
        if int8 and name != "classifier":
            shapes |= {f"{name}.weight": f"members {end} {start}", f"{name}.step": f"members {end}"}
    return {name: tuple(sizes[part] for part in shape.split()) for name, shape in shapes.items()}


class FrozenRuntime:
    """A frozen committee by folder or Hub name, which threads may share; ValueError where it is none, or not whole."""

    def __init__(self, source: str | Path) -> None:
        folder = Path(source).expanduser()
        if not folder.is_dir() and str(source).count("/") == 1:
            from huggingface_hub import snapshot_download  # comes with tokenizers

            try:
                folder = Path(snapshot_download(str(source)))
            except OSError as error:
                raise ValueError(f"{source} is no folder here, and the Hub gave none ({error}).") from error
        if (folder / "frozen").is_dir():  # beside the committee, as `tlm train-committee` leaves it
            folder = folder / "frozen"
        self.folder, file = folder, folder / "config.json"
        try:
            self.config = config = json.loads(file.read_text(encoding="utf-8"))
            if config["model_type"] != "tlm_frozen":
                raise ValueError(f"its model_type is {config['model_type']}")
            config.setdefault("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers leaves out its default
            self.labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
            expected, self.activation = table_shapes(config), ACTIVATIONS[config["hidden_act"]]
            file = folder / "model.safetensors"
            self.tables = read_tables(file)
            file = folder / "tokenizer.json"
            content = file.read_bytes()
            self.tokenizer, self.pair_tokenizer = (Tokenizer.from_str(content.decode()) for _ in range(2))
        except Exception as error:  # what tokenizers raises is an Exception itself
            is_missing = isinstance(error, FileNotFoundError)
            fault = "missing" if is_missing else f"damaged, or not of a frozen committee ({error})"
            raise ValueError(f"{file} is {fault}: name what `tlm freeze` or `tlm train-committee` wrote.") from error
        shapes = {name: each.shape for name, each in self.tables.items()}
        if shapes != expected:
            name = min(name for name, _ in shapes.items() ^ expected.items())
            raise ValueError(f"{folder} has {name} {shapes.get(name)}, by its config.json {expected.get(name)}.")
        for name in [name for name in expected if name.endswith(".step")]:  # what every text reads becomes float32
            weight = name.replace("step", "weight")
            unpacked = self.tables[weight] * self.tables.pop(name)[..., None]
            self.tables[weight] = np.ascontiguousarray(unpacked.transpose(0, 2, 1))
        self.positions = config["max_position_embeddings"]  # the most tokens of a text that members read
        self.longest = config.get("max_tokens") or self.positions  # that anything reads
        if not config.get("lexical_buckets"):
            self.longest = min(self.longest, self.positions)
        self.tokenizer.no_truncation()
        self.pair_tokenizer.enable_truncation(min(self.longest, self.positions))
        for tokenizer in (self.tokenizer, self.pair_tokenizer):
            tokenizer.no_padding()
        (self.first, *self.last), sha256 = self.tokenizer.encode("").ids, hashlib.sha256(content).hexdigest()
        if self.first != config["cls_token_id"] or config.get("tokenizer_sha256") not in (None, sha256):
            raise ValueError(f"{file} is another tokenizer than the committee's: restore it from where it came.")
        # By BERT's rules, what is between spaces has the same tokens whatever is around it.
        state = json.loads(content)
        kinds = [(state[name] or {}).get("type") for name in ("normalizer", "pre_tokenizer")]
        added = [each["lstrip"] or each["rstrip"] or " " in each["content"] for each in state["added_tokens"]]
        self.splits_at_spaces = kinds == ["BertNormalizer", "BertPreTokenizer"] and not any(added)
        self.words: dict[str, list[int]] = {}
        self.room, self.problem = REMEMBERED, config.get("problem_type")

    def __call__(self, texts: Any) -> Any:
        """What is answered, and whether the text was cut: for a text (a tuple: a pair), or for each of a list."""
        single = isinstance(texts, str | tuple)
        ids, types, truncated = self.encode([texts] if single else texts)
        logits = self.member_logits(ids, types)
        records: list[dict[str, Any]] = []
        for row, of_members, cut in zip(self.combine(logits), logits, truncated, strict=True):
            record: dict[str, Any] = {"label": self.labels[row.argmax()], "score": float(row.max())}
            if self.problem == "regression":
                record = {"value": float(row[0]), "spread": float(of_members.std())}
            elif self.problem == "multi_label_classification":
                chosen = np.flatnonzero(row >= self.config.get("threshold", 0.5))
                record = {"labels": {self.labels[place]: float(row[place]) for place in chosen}}
            records.append({**record, "truncated": cut})
        return records[0] if single else records

    def probabilities(self, texts: list[Any]) -> np.ndarray:
        """The committee's probabilities, float32 (texts, classes); of a regression its values (texts, 1)."""
        return self.combine(self.member_logits(*self.encode(texts)[:2]))

    def encode(self, texts: list[Any]) -> tuple[list[list[int]], list[list[int]] | None, list[bool]]:
        """Token ids, token types (None for single texts) and whether it was cut, of each text or pair of texts."""
        if isinstance(texts, dict):
            raise ValueError("A dictionary is no text: give a text, a pair as a tuple, or a list of either.")
        are_pairs = len(texts) > 0 and all(isinstance(text, list | tuple) and len(text) == 2 for text in texts)
        if not all(isinstance(text, str) for text in (chain(*texts) if are_pairs else texts)):
            raise ValueError("Every text must be a string, or every one a pair of strings: replace what is missing.")
        if are_pairs and self.config.get("type_vocab_size", 1) == 1:
            raise ValueError("It was frozen for single texts: freeze it for pairs with `tlm freeze --token-types`.")
        if are_pairs:
            pairs = self.pair_tokenizer.encode_batch([tuple(pair) for pair in texts])
            return [pair.ids for pair in pairs], [pair.type_ids for pair in pairs], [bool(p.overflowing) for p in pairs]
        bodies, room = self._encode_words(texts), self.longest - 1 - len(self.last)
        ids = [[self.first, *body[:room], *self.last] for body in bodies]
        return ids, None, [len(body) > room for body in bodies]

    def _encode_words(self, texts: list[str]) -> list[list[int]]:
        """Token ids without special tokens; what is between spaces is encoded once and remembered."""
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
        return bodies

    def combine(self, logits: np.ndarray) -> np.ndarray:
        """What members' logits (texts, members, classes) say together, float32 (texts, classes)."""
        if self.problem == "regression":
            return logits.mean(axis=1)
        of_labels, temperature = self.problem == "multi_label_classification", np.float32(self.config["temperature"])
        if of_labels:  # each label is two classes: there (its logit) or not (0)
            logits = np.stack([logits, np.zeros_like(logits)], axis=-1)
        if self.config["combination"] == "logits":
            joined = softmax(logits.mean(axis=1) / temperature, axis=-1)
        else:
            mean = softmax(logits, axis=-1).mean(axis=1)
            joined = softmax(np.log(np.maximum(mean, np.finfo(np.float32).tiny)) / temperature, axis=-1)
        return joined[..., 0] if of_labels else joined

    def member_logits(self, ids: list[list[int]], types: list[list[int]] | None = None) -> np.ndarray:
        """Each member's logits, float32 (texts, members, classes), of token ids that start with [CLS], and types."""
        order, tables = sorted(range(len(ids)), key=lambda index: len(ids[index])), self.tables
        logits = np.empty((len(ids), self.config["num_members"], len(self.labels)), np.float32)
        longest = self.positions
        short = [text if len(text) <= longest else [*text[: longest - 1], text[-1]] for text in ids]
        for start in range(0, len(ids), BATCH):
            rows = order[start : start + BATCH]
            context = self._pool([short[row] for row in rows], types and [types[row] for row in rows])
            states = self._norm(self._dense("attention_output", context))
            inner = self._dense("intermediate", states)
            for member in inner:  # one at a time stays in the processor's cache
                member[...] = self.activation(member)
            states = self._norm(self._dense("output", inner) + states * tables["gain"])
            logits[rows] = self._dense("classifier", np.tanh(self._dense("pooler", states))).transpose(1, 0, 2)
        if ids and "lexical.weight" in tables:
            logits += np.stack([self._by_words(np.array(text)) for text in ids])[:, None]
        return logits

    def _by_words(self, text: np.ndarray) -> np.ndarray:
        """What the tokens (tokens,), pairs and words of a text say of its class, float32 (classes,)."""
        weight, idf = self.tables["lexical.weight"], self.tables["lexical.idf"]
        buckets = (len(weight) - len(idf)) // 2
        tokens, counts = np.unique(text, return_counts=True)
        shares = 1 + np.log(counts, dtype=np.float32)
        pairs = len(idf) + (text[:-1] * MULTIPLIER + text[1:]) % buckets
        word = (1 - self.tables["lexical.continues"][text]).cumsum().astype(int)
        hashes = np.bincount(word, text * text * MULTIPLIER % PRIME)[np.bincount(word) > 1].astype(int)
        rows = np.concatenate([pairs, len(idf) + buckets + hashes % buckets])
        sums = shares @ weight[tokens] + weight[rows].sum(axis=0)
        return sums / max(np.linalg.norm(shares * idf[tokens]), 1) + self.tables["lexical.bias"]

    def _pool(self, texts: list[list[int]], types: list[list[int]] | None) -> np.ndarray:
        """Attention from [CLS]: token ids of each text to contexts, float32 (members, texts, hidden)."""
        tables, lengths = self.tables, np.array([len(text) for text in texts])
        columns, positions = np.arange(lengths.max()), self.positions
        mask = columns < lengths[:, None]
        ids, second = np.zeros(mask.shape, np.intp), np.zeros(mask.shape, bool)
        ids[mask] = np.concatenate(texts)
        if types is not None:
            second[mask] = np.concatenate(types)
        places = columns if types is None else columns + positions * second
        scale = tables["scale"][ids, places][..., None]  # (texts, length, members, 1)
        scores = tables["scores"].take(ids, axis=0)
        scores += tables["position_scores"][places]
        scores *= scale
        scores[~mask] = -np.inf
        weights = softmax(scores, axis=1) * scale  # (texts, length, members, heads)
        weights = np.ascontiguousarray(weights.transpose(2, 3, 0, 1))
        values = tables["position_values"]  # context: (members, heads, texts, size)
        context = np.matmul(weights if types is None else weights * ~second, values[:, :, : len(columns)])
        if types is not None:
            context += np.matmul(weights * second, values[:, :, positions : positions + len(columns)])
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
        return np.matmul(states, self.tables[f"{name}.weight"]) + self.tables[f"{name}.bias"]

    def _norm(self, states: np.ndarray) -> np.ndarray:
        states = states - states.mean(axis=-1, keepdims=True)
        states /= np.sqrt((states * states).mean(axis=-1, keepdims=True) + np.float32(self.config["layer_norm_eps"]))
        return states


class EndpointHandler(FrozenRuntime):
    """Hugging Face Inference Endpoints: `handler.py` in the folder imports it from here."""

    def __call__(self, data: dict[str, Any]) -> Any:
        """`{"inputs": text or texts}` to a list of labels and scores; a pair is `{"text": ..., "text_pair": ...}`."""
        if data.get("parameters"):
            raise ValueError(f"Leave these parameters out, it takes none: {', '.join(data['parameters'])}.")
        inputs = [data["inputs"]] if isinstance(data["inputs"], str | dict) else data["inputs"]
        return super().__call__([_pair_in(each) if isinstance(each, dict) else each for each in inputs])


def _pair_in(record: dict[str, Any]) -> Any:
    """The text of a record as transformers' pipelines take it, or its pair."""
    if "text" not in record or not {*record} <= {"text", "text_pair"}:
        raise ValueError(f"An input has {', '.join(record) or 'nothing'}: give text, and text_pair of a pair.")
    return (record["text"], record["text_pair"]) if record.get("text_pair") is not None else record["text"]


load = FrozenRuntime
