"""Long and short texts as people have them: all are used in pre-training, and what is cut is said and written down."""

import logging
import random

import datasets
import numpy as np
import pytest
import transformers
from helpers_commands import WORDS, labelled_rows

from tlm_hf.errors import UserError
from tlm_hf.evaluation.predict import predict
from tlm_hf.runtime import load
from tlm_hf.training.finetune import finetune
from tlm_hf.training.pretrain import pretrain
from tlm_hf.training.train_committee import train_committee

QUICK = {"size": "smoke", "num_threads": 1, "disable_tqdm": True, "num_hidden_layers": 1}


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "tlm_hf")
    return caplog


def tokens_of(folder, texts) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [len(tokenizer(text)["input_ids"]) for text in texts]


def test_a_corpus_of_long_lines_is_read_whole(tmp_path, log):
    rng = random.Random(0)
    words = [word for part in WORDS.values() for word in part]
    lines = [" ".join(rng.choice(words) for _ in range(600)) for _ in range(60)]
    (tmp_path / "book.txt").write_text("\n".join(lines), encoding="utf-8")
    results = pretrain(corpus=str(tmp_path / "book.txt"), max_steps=2, output_dir=str(tmp_path / "out"), **QUICK)
    assert "54 of 54 texts are longer than 32 tokens and are split" in log.text  # 6 are held out
    assert results["text_facts"]["longer"] == 54
    assert results["texts"] >= 54 * 600 / 30
    # Every word of 54 texts, and [CLS] and [SEP] of each window.
    assert results["tokens_per_epoch"] - 2 * results["texts"] >= 54 * 600
    first = pretrain(
        corpus=str(tmp_path / "book.txt"), max_steps=2, text_windows="first", output_dir=str(tmp_path / "cut"), **QUICK
    )
    assert (first["texts"], first["tokens_per_epoch"]) == (54, 54 * 32)
    assert "are cut" in log.text


def test_a_corpus_of_short_texts_is_used_whole(tmp_path, log):
    words = WORDS["farm"] + WORDS["sea"]
    texts = [f"{first} {second} please" for first in words[:9] for second in words[9:18]][:76]
    (tmp_path / "intents.txt").write_text("\n".join(texts), encoding="utf-8")
    results = pretrain(corpus=str(tmp_path / "intents.txt"), max_steps=2, output_dir=str(tmp_path / "out"), **QUICK)
    lengths = tokens_of(tmp_path / "out", texts)
    short = results["text_facts"]["short"]
    assert results["text_facts"]["texts"] == 69  # 7 are held out
    assert 60 <= short <= sum(length < 8 for length in lengths)
    assert f"{short} have under 8 tokens and are joined" in log.text
    assert 0 < results["texts"] < 69
    (tmp_path / "letters.txt").write_text("\n".join(f"{a} {b}" for a in "abc" for b in "abc"), encoding="utf-8")
    options = {"corpus": str(tmp_path / "letters.txt"), "output_dir": str(tmp_path / "letters"), **QUICK}
    with pytest.raises(UserError, match=r"letters\.txt.*--text-windows first"):
        pretrain(max_steps=2, text_windows="first", **options)
    results = pretrain(max_steps=2, **options)
    assert results["texts"] == 1
    assert 1 <= results["held_out"]["masked_tokens"] <= 2  # one text of two letters is held out
    assert results["held_out"]["loss"] > 0


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("texts") / "encoder")
    pretrain(corpus="docstrings", num_texts=100, max_steps=2, output_dir=folder, **QUICK)
    return folder


def test_texts_that_fine_tuning_cuts_are_said(encoder, tmp_path, log):
    rows = labelled_rows(20)
    rows[0]["text"] *= 20
    results = finetune(
        model=encoder, task=datasets.Dataset.from_list(rows), max_length=30, num_train_epochs=0.1,
        output_dir=str(tmp_path / "out"), disable_tqdm=True, num_threads=1,
    )  # fmt: skip
    lengths = tokens_of(encoder, [row["text"] for row in rows])
    longer = [length for length in lengths if length > 30]
    facts = results["text_facts"]
    assert (facts["texts"], facts["longer"]) == (len(rows), len(longer))
    assert facts["share_beyond"] == pytest.approx(sum(length - 30 for length in longer) / sum(lengths))
    assert f"{len(longer)} of {len(rows)} texts are longer than 30 tokens and are cut" in log.text
    assert "--max-length 32" in log.text  # the encoder's


def test_a_committee_reads_as_many_tokens_as_the_texts_have(tmp_path, log):
    rows = labelled_rows(12)
    for row in rows:
        row["text"] = " ".join([row["text"]] * 8)
    _, results = train_committee(
        datasets.Dataset.from_list(rows), num_members=1, encoder=["none"], size="smoke", pretrain_steps=2,
        num_train_epochs=0.1, workers=1, output_dir=str(tmp_path / "out"),
    )  # fmt: skip
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 512  # the table of words
    limit = results["text_facts"]["max_length"]
    assert limit == load(tmp_path / "out").positions > 32
    lengths = tokens_of(tmp_path / "out", [row["text"] for row in rows])
    assert sum(length <= limit for length in lengths) >= 0.9 * len(rows)
    assert results["text_facts"]["longer"] == sum(length > limit for length in lengths)
    wrong = {"--max-length": {"max_length": 2}, "at most 128 tokens": {"max_length": 4000}}
    for said, options in {**wrong, "'num_member'": {"num_member": 1}, "text=": {"text_column": "text"}}.items():
        with pytest.raises(UserError, match=said):
            train_committee(datasets.Dataset.from_list(rows), output_dir=str(tmp_path / "no"), **options)
    assert not (tmp_path / "no").exists()


def test_words_beyond_what_members_read_tell_the_class(encoder, tmp_path, log):
    rng = random.Random(0)
    beginnings = [" ".join(rng.choices("abcdefgh", k=50)) for _ in range(30)]
    rows = [{"text": f"{text} {kind}", "label": kind} for text in beginnings for kind in ("array", "string")]
    assert min(tokens_of(encoder, [row["text"] for row in rows])) > 32
    accuracies, longer = [], "60 of 60 texts are longer than 32 tokens and are cut"
    for length in (None, 32):
        folder = tmp_path / f"length-{length}"
        _, results = train_committee(
            datasets.Dataset.from_list(rows), num_members=1, encoder=[encoder], max_length=length,
            num_train_epochs=0.1, workers=1, output_dir=str(folder),
        )  # fmt: skip
        share = f"({results['text_facts']['share_beyond']:.1%} of all tokens)"
        said = (
            f"{longer} for the members {share}; the table of words reads 512: an encoder pre-trained with --max-length"
        )
        given = f"{longer} {share}: without --max-length more of them is read."
        assert (given if length else said) in log.text
        log.clear()
        accuracies.append(results["committee"]["accuracy"])
        answers = predict([row["text"] for row in rows], str(folder), freeze=False)
        frozen = load(folder).probabilities([row["text"] for row in rows])
        expected = [list(answer.probabilities.values()) for answer in answers]
        np.testing.assert_allclose(frozen, expected, atol=1e-5)
    assert accuracies[0] == 1
    assert accuracies[1] <= 0.5  # equal texts of both classes
