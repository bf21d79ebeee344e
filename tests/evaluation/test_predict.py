"""`predict` on texts, a data set and a file against stock BERT members, combined by scipy."""

import json
import re

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import refusal
from helpers_commands import refused, succeed, write_csv, write_splits
from scipy.special import softmax
from scipy.stats import entropy

from tlm_hf import CommitteeForSequenceClassification
from tlm_hf.errors import UserError
from tlm_hf.evaluation.predict import PredictArguments, predict, predict_command
from tlm_hf.export import FreezeArguments, freeze
from tlm_hf.loading import load_classifier

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


def test_a_committee_answers_from_tables_where_it_can(home, sentences, build_pair, tokenizer, tmp_path, monkeypatch):
    committee, classes = str(home[0] / "committee"), []
    forward = CommitteeForSequenceClassification.forward
    monkeypatch.setattr(
        CommitteeForSequenceClassification, "forward", lambda *a, **k: classes.append("run") or forward(*a, **k)
    )
    by_members = predict(sentences, committee, freeze=False)
    assert classes
    classes.clear()
    by_tables = predict(sentences, committee)
    freeze(FreezeArguments(committee, str(tmp_path / "frozen")))
    assert classes == ["run"]  # the comparison of `freeze`
    for found in (by_tables, predict(sentences, str(tmp_path / "frozen"))):
        for one, other in zip(found, by_members, strict=True):
            assert (one.label, one.agreement) == (other.label, other.agreement)
            assert (one.probability, one.entropy) == pytest.approx((other.probability, other.entropy), abs=3e-6)
    with pytest.raises(UserError, match="is frozen already"):
        freeze(FreezeArguments(str(tmp_path / "frozen"), str(tmp_path / "again")))
    deep = build_pair("classifier", num_hidden_layers=2, vocab_size=len(tokenizer))[0]
    CommitteeForSequenceClassification.from_members([deep]).save_pretrained(tmp_path / "deep")
    tokenizer.save_pretrained(tmp_path / "deep")
    classes.clear()
    assert len(predict(sentences, str(tmp_path / "deep"))) == len(sentences)
    assert classes


def test_texts_data_sets_and_files_agree(home, sentences, tmp_path):
    root, probabilities = home
    member = str(root / "member")
    predictions = predict(sentences, member)
    np.testing.assert_allclose(
        [list(prediction.probabilities.values()) for prediction in predictions], probabilities[:, 0], atol=1e-5
    )
    assert predictions[0].entropy is None
    assert predict(datasets.Dataset.from_dict({"body": sentences}), member, text_column="body") == predictions
    assert predict([list(pair) for pair in zip(sentences, sentences, strict=True)], member) == predict(
        list(zip(sentences, sentences, strict=True)), member
    )
    pd.DataFrame({"body": sentences[:1], "label": "farm", "n": 3}).to_parquet(tmp_path / "in.parquet")
    alone = PredictArguments(model=member, input=str(tmp_path / "in.parquet"), disable_tqdm=True)
    assert predict_command(alone)["predictions"][0]["label"] == predictions[0].label
    pd.DataFrame({"body": sentences, "text": "-", "entropy": "mine"}).to_csv(tmp_path / "in.csv", index=False)
    words = ("predict", "--model", root / "committee", "--input", tmp_path / "in.csv", "--disable-tqdm")
    succeed(*words, "--text-column", "body", "--batch-size", 5, "--output", tmp_path / "out.json")
    table, mean = pd.DataFrame(json.loads((tmp_path / "out.json").read_text())), probabilities.mean(axis=1)
    assert set(table["entropy"]) == {"mine"}
    np.testing.assert_allclose(table["predicted_entropy"], entropy(mean, axis=-1), atol=1e-5)
    np.testing.assert_allclose(table[[f"p({name})" for name in LABELS]], mean, atol=1e-5)
    assert table["label"].to_list() == [LABELS[index] for index in mean.argmax(axis=1)]
    assert {"probability", "mutual_information", "agreement"} <= set(table.columns)


def test_bad_input_is_refused(home, tmp_path):
    member, file = str(home[0] / "member"), str(write_csv(tmp_path / "a.csv", [{"text": "one"}]))
    with pytest.raises(UserError, match="exists"):
        predict_command(PredictArguments(model=member, input=file, output=file))
    for texts, words in (
        (["a", None], "Row 1"),
        (["a", " "], "Row 1"),
        (pd.DataFrame({"text": ["a"]}), "column"),
        ({"text": ["a"]}, "list of texts"),
        (datasets.Dataset.from_dict({"body": ["a"]}), "'text'"),
    ):
        assert re.search(words, refusal(predict, texts, member))


@pytest.fixture
def classify(home, tmp_path, capsys):
    """Function `(input, name of the output, *words)` that runs `tlm predict` and returns what it said and wrote."""

    def run(source, target, *words):
        capsys.readouterr()
        output = tmp_path / target
        succeed(
            "predict", "--model", home[0] / "member", "--input", source, "--output", output, "--disable-tqdm", *words
        )
        return json.loads(capsys.readouterr().out), output

    return run


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_other_columns_leave_as_they_came(classify, sentences, tmp_path, kind):
    """Oracle: the rows written here; Python and Arrow read them back."""
    rows = [
        {"id": 1234567890123456789, "day": "2024-05-01", "weight": 0.12345678901234, "tags": ["a", "b"]},
        {"id": None, "day": "01/02/2024", "weight": None, "tags": []},
        {"id": -1, "day": None, "weight": 1e-300, "tags": None},
    ]
    rows = [{**row, "predicted_label": "mine", "text": text} for row, text in zip(rows, sentences, strict=False)]
    source = tmp_path / f"in.{kind}"
    if kind == "jsonl":
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), source)
    said, output = classify(source, f"out.{kind}")
    assert (said["texts"], said["empty"]) == (3, 0)
    written = [json.loads(line) for line in output.read_text().splitlines()] if kind == "jsonl" else None
    written = written or pq.read_table(output).to_pylist()
    assert [{name: row[name] for name in rows[0]} for row in written] == rows
    assert {row["label"] for row in written} <= set(LABELS)
    if kind == "parquet":
        schema = pq.read_schema(source)
        assert [pq.read_schema(output).field(name).type for name in schema.names] == schema.types


def test_numbers_that_json_lacks_become_null(classify, sentences, tmp_path):
    numbers = [float("nan"), float("inf"), 0.5]
    table = pa.table({"text": sentences[:3], "weight": numbers, "all": [[{"of": each}] for each in numbers]})
    pq.write_table(table, tmp_path / "in.parquet")
    _, output = classify(tmp_path / "in.parquet", "out.jsonl")
    written = [json.loads(line, parse_constant=pytest.fail) for line in output.read_text().splitlines()]
    assert [(row["weight"], row["all"]) for row in written] == [(n, [{"of": n}]) for n in (None, None, 0.5)]


def test_a_name_that_is_taken_twice(classify, sentences, tmp_path):
    rows = [{"text": text, "label": "x", "predicted_label": "y"} for text in sentences]
    written = pd.read_csv(classify(write_csv(tmp_path / "in.csv", rows), "out.csv")[1])
    assert written[["text", "label", "predicted_label"]].to_dict("records") == rows
    assert set(written["predicted_predicted_label"]) <= set(LABELS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_all_files_of_a_folder_are_answered(classify, sentences, tmp_path):
    splits = {"train": sentences[:5], "test": sentences[5:]}
    write_splits(tmp_path / "data", **{s: [{"text": text, "file": "own"} for text in splits[s]] for s in splits})
    written = pd.read_csv(classify(tmp_path / "data", "out.csv")[1])
    assert written["predicted_file"].to_list() == ["test.csv"] * (len(sentences) - 5) + ["train.csv"] * 5
    assert written["text"].to_list() == [*sentences[5:], *sentences[:5]]
    assert set(written["file"]) == {"own"}


def test_empty_cells_are_answered_empty_and_counted(classify, sentences, tokenizer, tmp_path, home, capsys):
    texts = [sentences[0], " ", 'two naïve ☕\nlines, "quoted"', None, "boat " * 40]
    source = write_csv(tmp_path / "in.csv", [{"text": text, "zip": "02134"} for text in texts])
    said, output = classify(source, "out.csv")
    longer = sum(len(tokenizer(text or "")["input_ids"]) > 16 for text in texts)
    assert said == {"texts": 5, "empty": 2, "truncated": longer, "output": str(output)}
    written, empty = pd.read_csv(output, dtype=str), [False, True, False, True, False]
    assert written["label"].isna().to_list() == written["p(sea)"].isna().to_list() == empty
    assert set(written["zip"]) == {"02134"}
    words = ("--input", source, "--on-empty", "error", "--disable-tqdm")
    sentence = refused(capsys, "predict", "--model", home[0] / "member", *words)
    assert "line 3 of" in sentence  # the header is line 1
    assert "2 such rows" in sentence


@pytest.fixture
def save_model(build_pair, tokenizer, sentences, tmp_path):
    """Function `(problem_type, names)` to the folder of such a model and stock BERT's logits of the sentences."""

    def save(problem_type, names):
        named = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
        ours, stock = build_pair("classifier", vocab_size=len(tokenizer), problem_type=problem_type, **named)
        ours.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        with torch.no_grad():
            batch = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
            return tmp_path / "model", stock(**batch).logits

    return save


def score(capsys, model, task, *words):
    """What `tlm score` prints."""
    capsys.readouterr()
    succeed("score", "--model", model, "--task", task, "--disable-tqdm", *words)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_several_labels_a_text(save_model, sentences, tmp_path, capsys, ending):
    """Oracles: stock BERT's logits, torch's sigmoid, counts of right and wrong labels."""
    model, logits = save_model("multi_label_classification", LABELS)
    predictions = predict(sentences, str(model), threshold=0.4)
    found = [list(prediction.probabilities.values()) for prediction in predictions]
    np.testing.assert_allclose(found, logits.sigmoid(), atol=1e-5)
    for prediction, row in zip(predictions, logits.sigmoid(), strict=True):
        assert prediction.labels == [name for name, value in zip(LABELS, row, strict=True) if value >= 0.4]
        assert prediction.label is None
    sets = [["sea", "farm"], [], [" school"], ["farm", "sea", "school"]] * 3
    rows = [{"text": text, "label": names} for text, names in zip(sentences, sets, strict=True)]
    task = tmp_path / f"task.{ending}"
    if ending == "csv":
        write_csv(task, [{**row, "label": "|".join(row["label"])} for row in rows])
    else:
        task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = score(capsys, model, task)
    truth = np.array([[any(label.strip() == name for label in names) for name in LABELS] for names in sets])
    chosen = logits.sigmoid().numpy() >= 0.5
    hits, wrong = (truth & chosen).sum(axis=0), (truth != chosen).sum(axis=0)
    expected = {
        "micro_f1": 2 * hits.sum() / (2 * hits.sum() + wrong.sum()),
        "macro_f1": np.mean(2 * hits / np.maximum(1, 2 * hits + wrong)),
        "subset_accuracy": np.mean((truth == chosen).all(axis=1)),
    }
    assert said["metrics"] == pytest.approx(expected)
    assert said["texts"] == 12
    task = write_csv(tmp_path / "moon.csv", [{"text": "a", "label": "sea"}, {"text": "b", "label": "sea|moon"}])
    assert "moon" in refused(capsys, "score", "--model", model, "--task", task)
    assert "exists" in refused(capsys, "score", "--model", model, "--task", task, "--output", task)


def test_a_regression(save_model, sentences, tmp_path, capsys):
    """Oracles: stock BERT's logits, pandas' correlations."""
    model, logits = save_model("regression", ["score"])
    np.testing.assert_allclose([each.value for each in predict(sentences, str(model))], logits[:, 0], rtol=1e-4)
    rows = [{"text": text, "label": row**2 - 7.5} for row, text in enumerate(sentences)]
    said = score(capsys, model, write_csv(tmp_path / "task.csv", [*rows, {"text": "no number", "label": None}]))
    both = pd.DataFrame({"value": logits[:, 0].double(), "target": [row["label"] for row in rows]})
    error = ((both.value - both.target) ** 2).mean()
    expected = {
        "rmse": error**0.5,
        "r2": 1 - error / both.target.var(ddof=0),
        "pearson": both.value.corr(both.target),
        "spearman": both.value.corr(both.target, method="spearman"),
    }
    assert said["metrics"] == pytest.approx(expected, rel=1e-4)
    assert said["texts"] == 12
    write_splits(tmp_path / "data", train=rows[:8], test=[{**row, "label": 3} for row in rows[8:]])
    said = score(capsys, model, tmp_path / "data")
    assert (said["texts"], said["metrics"]["pearson"]) == (4, None)
    words = ("--test-per-label", 3)
    assert "--test-per-label" in refused(capsys, "score", "--model", model, "--task", tmp_path / "data", *words)
    rows[2]["label"] = "many"
    task = write_csv(tmp_path / "words.csv", rows)
    assert "'many' in line 4" in refused(capsys, "score", "--model", model, "--task", task)
    ours = load_classifier(str(model))
    for weights in ours.classifier.parameters():
        weights.data.mul_(1e-7)
    ours.save_pretrained(model)
    np.testing.assert_allclose([each.value for each in predict(sentences, str(model))], 1e-7 * logits[:, 0], rtol=1e-4)


def test_a_model_of_another_kind_than_was_asked_for_is_refused(home, sentences, tmp_path, capsys):
    member, task = home[0] / "member", tmp_path / "task.jsonl"
    assert "--threshold" in refusal(predict, sentences, str(member), threshold=0.4)
    task.write_text("".join(json.dumps({"text": text, "label": ["sea"]}) + "\n" for text in sentences))
    for words, said in (
        ((), "of multi: name a table"),
        (("--problem-type", "multi"), "not multi: leave the option out"),
    ):
        assert said in refused(capsys, "score", "--model", member, "--task", task, *words)


def test_a_table_to_score_may_lack_a_class(home, sentences, tmp_path, capsys):
    """Oracle: the members' probabilities. All rows of a single file are scored."""
    root, probabilities = home
    labels = [LABELS[0] if row % 2 else LABELS[2] for row in range(len(sentences))]
    table = [{"text": text, "label": label} for text, label in zip(sentences, labels, strict=True)]
    said = score(capsys, root / "member", write_csv(tmp_path / "t.csv", table))
    assert said["texts"] == len(sentences)
    right = [LABELS[index] == label for index, label in zip(probabilities[:, 0].argmax(-1), labels, strict=True)]
    assert said["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    one_class = [{**row, "label": LABELS[0]} for row in table]
    share = np.mean(probabilities[:, 0].argmax(-1) == 0)
    task = write_csv(tmp_path / "one.csv", one_class)
    assert score(capsys, root / "member", task)["metrics"]["accuracy"] == pytest.approx(share)
    for splits in ({"test": one_class}, {"train": [{"text": "a", "label": "sea"}]}):  # of which a test split is chosen
        write_splits(tmp_path / "data", **splits)
        said = score(capsys, root / "member", tmp_path / "data")
        assert said["texts"] == len(sentences)
        assert said["metrics"]["accuracy"] == pytest.approx(share)
    assert "validation" in refused(
        capsys, "score", "--model", root / "member", "--task", tmp_path / "data", "--split", "validation"
    )
    table[0]["label"] = "moon"
    words = ("--task", write_csv(tmp_path / "moon.csv", table), "--disable-tqdm")
    assert "moon" in refused(capsys, "score", "--model", root / "member", *words)
