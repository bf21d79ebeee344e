"""Starts for small tables: [CLS] as a mean of words, the classifier as a linear model, and left-out tokens.

Oracles: numpy on the word rows, and scikit-learn on the states of stock BERT.
"""

import numpy as np
import pytest
import torch
from helpers_commands import labelled_rows, results_of, shelf, succeed, write_csv
from sklearn.linear_model import LogisticRegression
from transformers import BertModel, BertTokenizer

from tlm_hf import TLMConfig, TLMModel
from tlm_hf.loading import load_for_finetuning
from tlm_hf.training.finetune import drop_tokens
from tlm_hf.training.initialization import RARE, start_as_linear_model, start_as_mean_of_words


def test_cls_is_the_standardised_mean_of_words(tmp_path):
    rng = np.random.default_rng(0)
    config = TLMConfig(vocab_size=300, hidden_size=128, num_attention_heads=2, max_position_embeddings=40)
    rows = rng.normal(size=(300, 128)).astype(np.float32)
    rows[:5] = 0  # special tokens
    frequencies = np.append(np.zeros(5), 1000 / np.arange(1, 296))
    draw = frequencies / frequencies.sum()
    texts = [rng.choice(300, size=rng.integers(10, 38), p=draw) for _ in range(200)]
    model = TLMModel(config, add_pooling_layer=False)
    start_as_mean_of_words(model, rows, frequencies, texts)
    model.save_pretrained(tmp_path)
    stock = BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    states, means = [], []
    lengths = np.linalg.norm(rows[:, :-1], axis=1)
    weights = RARE / (RARE + draw) * lengths
    for ids in texts:
        with torch.no_grad():
            states.append(stock(torch.tensor([[2, *ids, 3]])).last_hidden_state[0, 0, :-1].numpy())
        directions = rows[ids, :-1] / lengths[ids, None]
        means.append((weights[ids, None] * directions).sum(axis=0) / weights[ids].sum())
    ours, theirs = (np.array(each) - np.mean(each, axis=0) for each in (states, means))
    theirs /= theirs.std(axis=0)
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() > 0.95


@pytest.mark.parametrize("classes", [("farm", "sea"), ("farm", "school", "sea")])
def test_the_classifier_starts_as_logistic_regression(classes):
    rows = labelled_rows(15, classes=classes)
    texts, labels = [row["text"] for row in rows], np.array([classes.index(row["label"]) for row in rows])
    encoder = str(shelf() / "encoder")
    tokenizer = BertTokenizer.from_pretrained(encoder, model_max_length=32)
    model = load_for_finetuning(encoder, list(classes), dropout=0.1, from_scratch=False)
    start_as_linear_model(model, tokenizer, texts, labels)
    batch = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = BertModel.from_pretrained(encoder).eval()(**batch).last_hidden_state[:, 0]
        ours = model.eval()(batch["input_ids"], batch["attention_mask"]).logits.softmax(-1).numpy()
    inputs = np.tanh(0.5 * states.numpy())
    theirs = LogisticRegression(max_iter=300).fit(inputs, labels).predict_proba(inputs)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_tokens_are_left_out_but_for_those_that_are_kept():
    torch.manual_seed(0)
    ids = torch.tensor([[2, *range(5, 1003), 3], [2, 8, 3, 9, 3, *[0] * 995]])
    inputs = {"input_ids": ids, "attention_mask": ids.ne(0).long(), "token_type_ids": ids.eq(9).long()}
    short = drop_tokens(inputs | {"labels": "as they were"}, 0.3, [2, 3])
    assert short.pop("labels") == "as they were"
    first = short["input_ids"][0].tolist()
    assert first == [2, *sorted(first[1:-1]), 3]
    assert 640 < len(first) < 760
    assert short["attention_mask"].sum(dim=1).tolist()[0] == len(first)
    left = drop_tokens(inputs, 0.999999, [2, 3])
    left = {name: each[1][left["attention_mask"][1] == 1].tolist() for name, each in left.items()}
    assert left == {"input_ids": [2, 3, 3], "attention_mask": [1, 1, 1], "token_type_ids": [0, 0, 0]}


def test_both_are_options_of_finetune(tmp_path):
    task = write_csv(tmp_path / "task.csv", labelled_rows(20))
    words = ("finetune", "--model", shelf() / "encoder", "--task", task, "--head", "linear", "--token-dropout", 0.2)
    words = (*words, "--num-train-epochs", 2, "--learning-rate", 1e-4, "--num-threads", 1, "--disable-tqdm")
    succeed(*words, "--output-dir", tmp_path / "out")
    assert results_of(tmp_path / "out")["settings"]["token_dropout"] == 0.2
    assert results_of(tmp_path / "out")["test"]["accuracy"] > 0.5
