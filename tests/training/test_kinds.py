"""Several labels a text, numbers and pairs from a table to a committee's answers, beside numpy and scikit-learn."""

import types

import datasets
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import SENTENCES, refusal
from helpers_commands import CLASSES, labelled_rows, refused, rows_of, shelf, write_csv
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.metrics import accuracy_score, f1_score, r2_score, root_mean_squared_error
from transformers import AutoTokenizer

from tlm_hf import predict, train_committee
from tlm_hf.data.kinds import as_one_text, class_names, labels_of, texts_of
from tlm_hf.data.tables import SPLITS
from tlm_hf.data.tasks import load_task
from tlm_hf.evaluation.calibration import choose_threshold
from tlm_hf.evaluation.linear_models import choose_linear
from tlm_hf.evaluation.metrics import measure
from tlm_hf.models.combination_committee import MULTI
from tlm_hf.runtime import load
from tlm_hf.training import join_committee
from tlm_hf.training.committee_report import score_models
from tlm_hf.training.lexical import fit_lexical, lexical_logits, weigh, word_vectors


@pytest.mark.parametrize("kind", ["multi", "regression", "pairs"])
def test_a_table_of_every_kind_is_read_split_and_read_back(kind, tmp_path):
    rows = rows_of(kind)
    options = {"multi": {}, "regression": {"problem_type": "regression"}, "pairs": {"text_pair_column": "other"}}[kind]
    options |= {"text_column": "text"}
    task = load_task(datasets.Dataset.from_list(rows), **options)
    shown = [{**row, "label": "|".join(row["label"]) if kind == "multi" else row["label"]} for row in rows]
    again = {**options, "problem_type": "multi"} if kind == "multi" else options
    assert len(task["train"]) + len(task["validation"]) + len(task["test"]) == len(rows)
    by_text = {row["text"]: row for row in rows}
    for split, read in load_task(write_csv(tmp_path / "rows.csv", shown), **again).items():
        assert texts_of(read) == texts_of(task[split])
        np.testing.assert_array_equal(labels_of(read), labels_of(task[split]))
        for text, label in zip(read["text"], labels_of(read), strict=True):
            expected = by_text[text]["label"]
            if kind == "multi":
                expected = [float(name in expected) for name in sorted(CLASSES)]
            np.testing.assert_array_equal(label, expected if kind != "pairs" else ["one", "two"].index(expected))
        if kind == "pairs":
            assert texts_of(read) == [(text, by_text[text]["other"]) for text in read["text"]]


def check_what_was_held_out(output, committee, regression):
    """Members held out other rows, the final table knows them all, and of a regression they chose its share."""
    work, tokenizer = output / "work", AutoTokenizer.from_pretrained(output)
    folds = [
        datasets.DatasetDict.from_parquet({split: str(work / name / f"{split}.parquet") for split in SPLITS})
        for name in ("data", "data-1")
    ]
    assert set(folds[1]["validation"]["text"]) <= set(folds[0]["train"]["text"])
    every = folds[0]["train"]["text"][:] + folds[0]["validation"]["text"][:]
    assert sorted(folds[1]["train"]["text"][:] + folds[1]["validation"]["text"][:]) == sorted(every)
    counts = CountVectorizer(tokenizer=tokenizer.tokenize, token_pattern=None, binary=True).fit(every)
    numbers = tokenizer.convert_tokens_to_ids(counts.get_feature_names_out())
    idf = TfidfTransformer().fit(counts.transform(every)).idf_
    np.testing.assert_allclose(committee.lexical.idf[numbers], idf, rtol=1e-5)
    if regression:
        vectors = word_vectors(tokenizer, [str(shelf() / "encoder")])
        apart, error = [], []
        for index, fold in enumerate(folds):
            texts, labels = fold["validation"]["text"][:], np.array(fold["validation"]["label"][:])
            own = [each.value for each in predict(texts, str(work / "members" / f"member-{index}"))]
            words = lexical_logits(fit_lexical(tokenizer, vectors, fold["train"], 1), tokenizer, texts)[:, 0]
            apart.append(own - words)
            error.append(labels - words)
        apart, error = np.concatenate(apart), np.concatenate(error)
        share = np.clip(apart @ error / (apart @ apart), 0.1, 1)
        whole = fit_lexical(
            tokenizer, vectors, datasets.concatenate_datasets([folds[0]["train"], folds[0]["validation"]]), 1
        )
        assert committee.lexical.bias.item() == pytest.approx((1 - share) * whole.bias.item(), rel=1e-3)


@pytest.mark.parametrize("kind", ["multi", "regression", "pairs"])
def test_a_committee_of_every_kind_is_scored_and_answers_in_every_form(kind, tmp_path, caplog):
    """Oracles: scikit-learn on what `predict` says of the test rows, and numpy on what the members say."""
    options = {"multi": {}, "regression": {"problem_type": "regression"}, "pairs": {"text_pair": "other"}}[kind]
    options |= {"encoder": [str(shelf() / "encoder")], "num_members": 2, "num_train_epochs": 1.0, "workers": 1}
    options |= {"seed": 3, "keep_validation": kind == "pairs"}  # the members' tables are read with seed 0
    frame, output = pd.DataFrame(rows_of(kind)), tmp_path / "out"
    committee, results = train_committee(frame, text="text", output_dir=str(output), **options)
    test = datasets.Dataset.from_parquet(str(output / "work" / "data" / "test.parquet"))
    texts, labels = texts_of(test), labels_of(test)
    if kind == "pairs":  # for which validation is kept apart
        assert not (output / "work" / "data-1").exists()
    else:
        check_what_was_held_out(output, committee, regression=kind == "regression")
    answers, frozen = predict(texts, str(output)), load(output / "frozen")
    shown = {row["model"]: row for row in results["scores"]}["committee"]
    probabilities = frozen.probabilities(texts)
    if kind == "multi":
        found = np.array([list(each.probabilities.values()) for each in answers])
        chosen = found >= committee.config.threshold
        assert [each.labels for each in answers] == [list(np.array(sorted(CLASSES))[row]) for row in chosen]
        expected = {"micro_f1": f1_score(labels, chosen, average="micro", zero_division=0)}
        expected["macro_f1"] = f1_score(labels, chosen, average="macro", zero_division=0)
    elif kind == "regression":
        found = np.array([[each.value] for each in answers])
        expected = {"r2": r2_score(labels, found[:, 0]), "rmse": root_mean_squared_error(labels, found[:, 0])}
        expected["spearman"] = spearmanr(labels, found[:, 0]).statistic
        spread = [each["spread"] for each in frozen(texts)]
        np.testing.assert_allclose([each.spread for each in answers], spread, atol=1e-3)
    else:
        found = np.array([list(each.probabilities.values()) for each in answers])
        expected = {"accuracy": accuracy_score(labels, found.argmax(-1))}
    np.testing.assert_allclose(probabilities, found, rtol=1e-5, atol=2e-5)
    assert {name: shown[name]["value"] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert {"multi": "micro F1", "regression": "R²", "pairs": "accuracy"}[kind] in results["recommendation"]
    linear = joblib.load(output / "baseline.joblib").predict(as_one_text(texts))
    if kind == "multi":
        named = np.array([[name in each for name in sorted(CLASSES)] for each in linear])
        right = f1_score(labels, named, average="micro", zero_division=0)
        of_linear = {row["model"]: row for row in results["scores"]}["TF-IDF + linear model"]
        assert of_linear["micro_f1"]["value"] == pytest.approx(right)
    assert len(linear) == len(texts)
    if kind == "pairs":
        doubtful = results["doubtful"]["most uncertain"][0]
        assert doubtful["text"] in as_one_text(texts)
        predict(["one text"], str(output))
        assert "trained on pairs" in caplog.text
    else:
        predict([("one text", "another")], str(output), freeze=False)
        assert "trained on single texts" in caplog.text


def test_what_a_kind_has_no_use_for_is_refused_and_other_kinds_are_hinted_at(tmp_path, caplog, capsys):
    numbers = write_csv(tmp_path / "numbers.csv", [{"text": f"a {n}", "label": n % 30} for n in range(180)])
    load_task(numbers)
    several = write_csv(tmp_path / "sets.csv", [{"text": f"a {n}", "label": f"x|{n % 3}"} for n in range(60)])
    load_task(several)
    for said in ("--problem-type regression", "--problem-type multi"):
        assert said in caplog.text
    caplog.clear()
    names = ("a", "b", "c", "a|b")  # the parts of a|b are labels too
    load_task(write_csv(tmp_path / "both.csv", [{"text": f"a {n}", "label": names[n % 4]} for n in range(60)]))
    assert "labels such as a|b are one class each" in caplog.text
    caplog.clear()
    load_task(numbers, problem_type="single")
    names = ("a", "b", "c", "d|e", "f|g")
    load_task(write_csv(tmp_path / "few.csv", [{"text": f"a {n}", "label": names[n % 5]} for n in range(60)]))
    assert not caplog.text
    encoder = ("--model", shelf() / "encoder", "--output-dir", tmp_path / "out")
    one = write_csv(tmp_path / "one.csv", [{"text": f"a {n}", "label": "x" * (n % 2)} for n in range(60)])
    assert "two labels" in refused(capsys, "finetune", "--task", one, *encoder, "--problem-type", "multi")
    assert "two labels" in refused(capsys, "train-committee", one, "--text-column", "text", "--problem-type", "multi")
    for words, said in (
        (("--problem-type", "regression", "--train-per-label", 3), "--train-per-label"),
        (("--problem-type", "regression", "--class-weights", "balanced"), "--class-weights"),
        (("--problem-type", "multi", "--drop-rare-classes", 3), "--drop-rare-classes"),
        (("--text-pair-column", "label", "--drop-leakage"), "--drop-leakage"),
        (("--text-pair-column", "reply"), "--text-pair-column"),
        (("--problem-type", "regression", "--metric-for-best-model", "macro_f1"), "give loss"),
        (("--problem-type", "multi", "--metric-for-best-model", "accuracy"), "works only for"),
    ):
        assert said in refused(capsys, "finetune", "--task", numbers, *encoder, *words)


@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_a_text_that_comes_twice_keeps_its_first_label(kind, caplog):
    rows = rows_of(kind)
    second = [{**row, "label": CLASSES if kind == "multi" else -1.0} for row in rows[:9]]
    kind = {"problem_type": kind}
    task = load_task(datasets.Dataset.from_list(rows + second), text_column="text", **kind)
    first = load_task(datasets.Dataset.from_list(rows), text_column="text", **kind)
    for split in task:
        np.testing.assert_array_equal(labels_of(task[split]), labels_of(first[split]))
    assert "the first one counts" in caplog.text


def test_a_label_that_no_training_text_has_is_said(caplog):
    rows = rows_of("multi")
    splits = {"train": rows, "test": [{**row, "text": f"{row['text']} again", "label": ["moon"]} for row in rows[:5]]}
    load_task(datasets.DatasetDict({split: datasets.Dataset.from_list(each) for split, each in splits.items()}))
    assert "no training text has 'moon'." in caplog.text


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ([["a", None], ["b"]], ["a", "b"]),
        ([[10.0, 9.0], [100.0]], ["9", "10", "100"]),
        ([[10, 9], []], ["9", "10"]),
        (["10|9", "9"], ["9", "10"]),
    ],
)
def test_lists_name_their_labels_as_cells_do(cells, names):
    rows = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(40)], "label": cells * 20})
    assert class_names(load_task(rows, problem_type="multi")) == names


def test_numbers_of_classes_in_lists():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=["z", "a"]))}
    )

    def load(cells):
        return load_task(datasets.Dataset.from_dict({"text": [f"a {n}" for n in range(40)], "label": cells}, features))

    labels = np.concatenate([labels_of(rows) for rows in load([[0, -1], [-1]] * 20).values()])
    assert labels.sum(axis=0).tolist() == [20, 0]
    table = pa.table({"text": [f"a {n}" for n in range(40)], "label": [[0], [7]] * 20})
    odd = datasets.Dataset(table, datasets.DatasetInfo(features=features))
    assert "The label 7 in row 2 of train" in refusal(load_task, odd)


def test_numbers_that_are_missing_or_equal_are_refused():
    texts = [f"text {n}" for n in range(60)]
    rows = datasets.Dataset.from_dict({"text": texts, "label": [None, None, 1.5] * 20})
    assert "empty cell in 40 of 60" in refusal(load_task, rows, problem_type="regression")
    splits = datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": texts, "label": [2.0, 2.0, 2.5] * 20}))
    splits["test"] = datasets.Dataset.from_dict({"text": ["u", "v"], "label": [1.0, 1.0]})
    assert "Every number of the test split" in refusal(load_task, splits, problem_type="regression")


def test_the_table_of_words_is_scikit_learns_model_of_each_kind(tokenizer):
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(len(tokenizer), 6)), rng.integers(0, 2, (90, 3))
    labels[:, 2] = 0
    texts = [row["text"] for row in labelled_rows(30, CLASSES)]

    def with_labels(cells, feature):
        features = datasets.Features({"text": datasets.Value("string"), "label": feature})
        return datasets.Dataset.from_dict({"text": texts, "label": cells}, features=features)

    sets = [np.flatnonzero(row).tolist() for row in labels]
    rows = with_labels(sets, datasets.List(datasets.ClassLabel(names=["a", "b", "c"])))
    found = lexical_logits(fit_lexical(tokenizer, vectors, rows, 3), tokenizer, texts)
    for column in (0, 1):
        rows = with_labels(labels[:, column], datasets.ClassLabel(names=["no", "yes"]))
        expected = lexical_logits(fit_lexical(tokenizer, vectors, rows, 2), tokenizer, texts)[:, 1]
        np.testing.assert_allclose(found[:, column], expected, atol=0.02)
    assert (found[:, 2] == -1).all()
    rows = with_labels([float(len(text)) for text in texts], datasets.Value("float64"))
    values = lexical_logits(fit_lexical(tokenizer, vectors, rows, 1), tokenizer, texts)[:, 0]
    assert r2_score(rows["label"][:], values) > 0.5


def test_threshold_metrics_and_weights_against_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (200, 3))
    logits = 2 * labels - 3 + rng.normal(size=(200, 3))
    threshold = choose_threshold(logits, labels)
    scores = {
        each: f1_score(labels, expit(logits) >= each, average="micro") for each in np.arange(0.1, 0.91, 0.05).round(2)
    }
    assert scores[threshold] == max(scores.values())
    assert measure("multi_label_classification", logits, labels, threshold)["micro_f1"] == scores[threshold]
    values = rng.normal(size=(60, 2, 1))
    table = rng.normal(size=(60, 1))
    factors = weigh(values, table, 0.3 * values.mean(1)[:, 0] + 0.7 * table[:, 0], "probabilities", "regression")
    assert factors == pytest.approx((0.3, 0.7, 0.0))


@pytest.fixture(scope="module")
def of_labels():
    """Texts that all have the first label, of which none has the second."""
    label = datasets.List(datasets.ClassLabel(names=["always", "never", "sea"]))
    rows = {"text": SENTENCES, "label": [[0, 2] if "boat" in text else [0] for text in SENTENCES]}
    rows = datasets.Dataset.from_dict(rows, datasets.Features({"text": datasets.Value("string"), "label": label}))
    return datasets.DatasetDict(dict.fromkeys(SPLITS, rows))


def test_labels_that_no_training_text_has_or_every_one_are_told(tokenizer, of_labels):
    vectors = np.eye(len(tokenizer), dtype=np.float32)
    logits = lexical_logits(fit_lexical(tokenizer, vectors, of_labels["train"], 3), tokenizer, SENTENCES)
    assert (logits[:, 0] > 0).all()
    assert (logits[:, 1] < 0).all()
    of_one = fit_lexical(tokenizer, vectors, of_labels["train"].select([0]), 3)
    assert len(np.unique(lexical_logits(of_one, tokenizer, SENTENCES), axis=0)) == 1
    linear = choose_linear({split: np.eye(len(SENTENCES)) for split in SPLITS}, of_labels)
    assert (linear["logits"]["test"][:, 1] < 0).all()


def test_a_committee_of_one_has_the_scores_of_its_member(of_labels):
    members = 40 * np.random.default_rng(0).normal(size=(len(SENTENCES), 1, 3))
    config = types.SimpleNamespace(temperature=20.0, threshold=0.45, problem_type=MULTI)
    joined = types.SimpleNamespace(
        logits=members[:, 0] / 20, member_logits=members, results={"labels": ["a", "b", "c"]}
    )
    joined.committee = types.SimpleNamespace(config=config)
    linear = {"logits": {"test": members[:, 0]}, "threshold": 0.5}
    committee, member, *_ = score_models(of_labels, joined, linear)["scores"]
    assert {**member, "model": "committee"} == committee
    of_members = join_committee._score_members(members, labels_of(of_labels["test"]), config)
    assert of_members["best_member_test_micro_f1"] == pytest.approx(committee["micro_f1"]["value"])
