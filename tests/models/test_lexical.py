"""The table of words: against scikit-learn's own model on explicit features, and in every form of a committee."""

import copy
import itertools

import datasets
import numpy as np
import pytest
import torch
from conftest import SENTENCES
from helpers_models import stock_committee
from scipy.special import logsumexp, softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from transformers import AutoModelForSequenceClassification

from tlm_hf.export import OnnxClassifier, export_onnx, write_frozen
from tlm_hf.models.lexical_committee import MULTIPLIER, PRIME, LexicalTable, hash_words
from tlm_hf.runtime import load
from tlm_hf.training import lexical
from tlm_hf.training.lexical import BUCKETS, STRENGTH, add_table, fit_lexical, lexical_logits, weigh

TEXTS = [" ".join(SENTENCES[place : place + 2]) for place in range(len(SENTENCES) - 1)] * 2
NEW = [*SENTENCES, "", "zebra zebra zebra the boat", " ".join(SENTENCES)]


def rows_of(labels):
    return datasets.Dataset.from_dict({"text": TEXTS, "label": labels.tolist()})


def explicit_features(tokenizer, vectors, texts):
    """Features of texts, (texts, features), of which the first ones are the training texts `TEXTS`."""
    every = tokenizer([*TEXTS, *texts], truncation=True)["input_ids"]
    words = [[token for token in ids if token not in tokenizer.all_special_ids] for ids in every]
    tfidf = TfidfVectorizer(
        analyzer=list, lowercase=False, sublinear_tf=True, vocabulary={token: token for token in range(len(tokenizer))}
    )
    tokens = tfidf.fit(words[: len(TEXTS)]).transform(words).toarray()
    lengths = TfidfVectorizer(
        analyzer=list, lowercase=False, sublinear_tf=True, norm=None, vocabulary=tfidf.vocabulary_
    )
    lengths = np.linalg.norm(lengths.fit(words[: len(TEXTS)]).transform(words).toarray(), axis=1)
    spelled = [
        token[2:] if token.startswith("##") else " " + token
        for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    ]
    grams = [[s[i : i + n] for n in (2, 3, 4) for i in range(len(s) - n + 1)] for s in spelled]
    known = sorted({gram for each in grams for gram in each})
    index = {gram: place for place, gram in enumerate(known)}
    letters, pairs = np.zeros((len(every), len(known))), np.zeros((len(every), BUCKETS))
    whole = np.zeros((len(every), BUCKETS))
    for row, (ids, inner) in enumerate(zip(every, words, strict=True)):
        for token in set(inner):
            for gram in grams[token]:
                letters[row, index[gram]] += (1 + np.log(inner.count(token))) / lengths[row]
        for first, second in itertools.pairwise(ids):
            pairs[row, (first * MULTIPLIER + second) % BUCKETS] += 1 / max(lengths[row], 1)
        spelling = " ".join(tokenizer.convert_ids_to_tokens(ids)).replace(" ##", "##")
        for word in spelling.split():
            pieces = tokenizer.convert_tokens_to_ids(word.replace("##", " ##").split())
            if len(pieces) > 1:
                bucket = sum(piece**2 * MULTIPLIER % PRIME for piece in pieces) % BUCKETS
                whole[row, bucket] += 1 / max(lengths[row], 1)
    present = (letters[: len(TEXTS)] > 0).sum(axis=0)
    letters *= np.log((1 + len(TEXTS)) / (1 + present)) + 1
    whole *= np.log((1 + len(TEXTS)) / (1 + (whole[: len(TEXTS)] > 0).sum(axis=0))) + 1
    assert (whole[: len(TEXTS)] > 0).any()
    dense = tokens @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    blocks = [tokens, letters, dense, pairs, whole]
    scales = []
    for block in blocks:  # rare features, which no other text has, make a block count less
        squares = block[: len(TEXTS)] ** 2
        shared = squares[:, (squares > 0).sum(axis=0) > 1].sum() / squares.sum()
        scales.append(np.sqrt(shared / squares.sum(axis=1).mean()))
    return np.hstack([block * scale for block, scale in zip(blocks, scales, strict=True)])


@pytest.mark.parametrize("classes", [2, 3])
def test_the_table_is_scikit_learns_model(tokenizer, classes):
    vectors, labels = np.random.default_rng(0).normal(size=(len(tokenizer), 5)), np.arange(len(TEXTS)) % classes
    table = fit_lexical(tokenizer, vectors, rows_of(labels), classes + 1)
    features = explicit_features(tokenizer, vectors, NEW)
    model = LinearSVC(C=STRENGTH, tol=1e-5, random_state=0).fit(features[: len(TEXTS)], labels)
    expected = model.decision_function(features[len(TEXTS) :])
    found = lexical_logits(table, tokenizer, NEW, batch_size=4)
    if classes == 2:
        expected = np.stack([-expected, expected], axis=1)
    np.testing.assert_allclose(found[:, :classes], expected, atol=0.03)
    assert (found[:, classes] == -1).all()


@torch.no_grad()
def test_it_reads_longer_texts_than_members_in_every_form_of_a_committee(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = 40
    committee, stocks = stock_committee(vocab_size=len(tokenizer))
    cut = tokenizer(NEW, padding=True, truncation=True, max_length=16, return_tensors="pt")  # members' room
    members = np.stack([stock(**cut).logits.numpy() for stock in stocks], axis=1)
    batch = tokenizer(NEW, padding=True, truncation=True, return_tensors="pt")
    assert batch["attention_mask"].sum(dim=1).max() == 40
    vectors = np.random.default_rng(0).normal(size=(len(tokenizer), 5))
    table = fit_lexical(tokenizer, vectors, rows_of(np.arange(len(TEXTS)) % 3), 3)
    by_words = table(batch["input_ids"], batch["attention_mask"]).numpy()
    add_table(committee, table, (0.5, 4.0, 0.0), tokenizer.model_max_length)
    np.testing.assert_allclose(committee[0](**cut).logits.detach().numpy(), members[:, 0], atol=1e-5)
    votes = 0.5 * members + 4.0 * by_words[:, None]
    expected = softmax((logsumexp(votes - logsumexp(votes, axis=-1, keepdims=True), axis=1)) / 1.3, axis=-1)

    committee.save_pretrained(tmp_path / "committee")
    write_frozen(committee, tokenizer, tmp_path / "frozen")
    export_onnx(committee, tmp_path / "model.onnx")
    export_onnx(committee.freeze(cls_token_id=tokenizer.cls_token_id), tmp_path / "frozen.onnx")
    models = [committee, committee.subset([0, 1])]
    for options in ({}, {"trust_remote_code": True}, {"dtype": torch.float16}):
        models += [
            AutoModelForSequenceClassification.from_pretrained(tmp_path / name, **options)
            for name in ("committee", "frozen")
        ]
    models += [OnnxClassifier(tmp_path / name, committee.config) for name in ("model.onnx", "frozen.onnx")]
    assert committee.freeze(cls_token_id=tokenizer.cls_token_id).config.max_tokens == tokenizer.model_max_length
    assert models[2].num_parameters() == sum(each.numel() for each in models[2].state_dict().values())
    assert not [name for name, _ in models[2].named_parameters() if "lexical" in name]  # no training changes it
    for model in models:
        tolerance = 1e-2 if getattr(model, "dtype", None) == torch.float16 else 1e-5
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        np.testing.assert_allclose(output.logits.float().softmax(-1).numpy(), expected, atol=tolerance)
    committee.subset([1]).save_pretrained(tmp_path / "one")
    one = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one")(batch["input_ids"])
    assert torch.equal(one.logits, committee.subset([1])(batch["input_ids"]).logits)
    runtime = load(tmp_path / "frozen")
    np.testing.assert_allclose(runtime.probabilities(NEW), expected, atol=1e-5)
    assert runtime([]) == []
    assert runtime.probabilities([]).shape == (0, expected.shape[1])
    assert [each["truncated"] for each in runtime(NEW)] == [False] * (len(NEW) - 1) + [True]
    with pytest.raises(ValueError, match="more than 16 tokens must be padded on the right"):
        committee(batch["input_ids"].flip(1), batch["attention_mask"].flip(1))
    with pytest.raises(ValueError, match="Pairs of texts have at most 16 tokens here, not 40"):
        committee(batch["input_ids"], batch["attention_mask"], batch["attention_mask"])


def test_words_of_long_texts_are_the_same_in_half_precision():
    ids, continues = torch.arange(600)[None] % 37, (torch.arange(600)[None] % 3 == 1).float()
    for found, expected in zip(hash_words(ids, continues.bfloat16(), 64), hash_words(ids, continues, 64), strict=True):
        assert torch.equal(found, expected)


def test_members_and_table_are_weighed_by_validation():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    right, noise = 4 * np.eye(3)[labels] + rng.normal(size=(400, 3)), rng.normal(size=(400, 2, 3))
    share, scale, _ = weigh(noise, 0.1 * right, labels, "probabilities")
    assert share < 0.15 < 6 < scale
    share, scale, _ = weigh(0.5 * np.stack([right, right], axis=1), noise[:, 0], labels, "probabilities")
    assert share > 1
    assert scale < 2
    assert weigh(noise[:1], right[:1], labels[:1], "logits") == pytest.approx((0.15, 6.0, 0.0), rel=0.3)


def test_with_several_labels_the_table_is_calibrated_as_by_logistic_regression(monkeypatch):
    """Oracle: scikit-learn's logistic regression of one feature."""
    monkeypatch.setattr(lexical, "TRUST", 0.0)
    rng = np.random.default_rng(0)
    labels = (rng.random((500, 3)) < 0.2).astype(float)
    words = labels + rng.normal(size=(500, 3))
    platt = LogisticRegression(C=np.inf).fit(words.reshape(-1, 1), labels.ravel())
    kind = "multi_label_classification"
    _, scale, offset = weigh(np.zeros((500, 1, 3)), words, labels, "probabilities", kind)
    assert (scale, offset) == pytest.approx((platt.coef_.item(), platt.intercept_.item()), rel=1e-2)
    table = LexicalTable(7, BUCKETS, 3)
    table.bias.data.fill_(2.0)
    add_table(stock_committee(vocab_size=7)[0], table, (0.5, 4.0, -1.5), 16)
    assert table.bias.tolist() == [6.5] * 3
