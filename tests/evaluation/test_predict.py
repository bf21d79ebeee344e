"""`predict` on texts, a data set and a file against stock BERT members, combined by scipy."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from helpers_commands import succeed
from scipy.special import softmax
from scipy.stats import entropy

from tlm_hf import CommitteeForSequenceClassification
from tlm_hf.errors import UserError
from tlm_hf.evaluation.predict import predict

LABELS = ["farm", "sea", "school"]


@pytest.fixture(scope="module")
def home(build_pair, tokenizer, sentences, tmp_path_factory):
    """Folder of a committee and of its first member; the members' probabilities (texts, members, labels)."""
    root = tmp_path_factory.mktemp("predict")
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    padded = {**names, "vocab_size": len(tokenizer) + 8}  # a table padded for speed has more rows than tokens
    pairs = [build_pair("classifier", seed=seed, **padded) for seed in range(3)]
    pairs[0][0].save_pretrained(root / "member")
    CommitteeForSequenceClassification.from_members([ours for ours, _ in pairs]).save_pretrained(root / "committee")
    for name in ("member", "committee"):
        tokenizer.save_pretrained(root / name)
    batch = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = np.stack([stock(**batch).logits.double().numpy() for _, stock in pairs], axis=1)
    return root, softmax(logits, axis=-1)


def test_a_committee_says_how_unsure_it_is(home, sentences):
    root, probabilities = home
    mean = probabilities.mean(axis=1)
    predictions = predict(sentences, str(root / "committee"))
    assert [prediction.label for prediction in predictions] == [LABELS[index] for index in mean.argmax(axis=1)]
    found = np.array([[p.probability, p.entropy, p.mutual_information, p.agreement] for p in predictions])
    preferred = probabilities.argmax(axis=-1)
    agreement = [np.bincount(row).max() / 3 for row in preferred]
    information = entropy(mean, axis=-1) - entropy(probabilities, axis=-1).mean(axis=1)
    expected = np.stack([mean.max(axis=1), entropy(mean, axis=-1), information, agreement], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_texts_data_sets_and_files_agree(home, sentences, tmp_path):
    root, probabilities = home
    member = str(root / "member")
    predictions = predict(sentences, member)
    np.testing.assert_allclose(
        [list(prediction.probabilities.values()) for prediction in predictions], probabilities[:, 0], atol=1e-5
    )
    assert predictions[0].entropy is None
    assert predict(datasets.Dataset.from_dict({"body": sentences}), member, text_column="body") == predictions
    pd.DataFrame({"text": sentences, "entropy": "mine"}).to_csv(tmp_path / "in.csv", index=False)
    words = ("predict", "--model", root / "committee", "--input", tmp_path / "in.csv", "--disable-tqdm")
    succeed(*words, "--output", tmp_path / "out.json")
    table = pd.DataFrame(json.loads((tmp_path / "out.json").read_text()))
    assert set(table["entropy"]) == {"mine"}
    np.testing.assert_allclose(table["predicted_entropy"], entropy(probabilities.mean(axis=1), axis=-1), atol=1e-5)
    assert {"label", "probability", "mutual_information", "agreement", "p(farm)"} <= set(table.columns)


def test_bad_input_is_refused(home, one_sentence):
    member = str(home[0] / "member")
    for texts, words in ((["a", None], "Row 1"), (datasets.Dataset.from_dict({"body": ["a"]}), "'text'")):
        with pytest.raises(UserError, match=words) as caught:
            predict(texts, member)
        one_sentence(caught.value)
