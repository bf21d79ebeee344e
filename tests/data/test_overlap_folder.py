"""`tlm overlap`: refusals, and folders with one configuration a task and kind, a card, facts, one validation split."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from helpers_commands import labelled_rows, refused, succeed, write_corpus, write_splits

from tlm_hf.data import overlap_report
from tlm_hf.data.corpora import load_corpus
from tlm_hf.data.sources import seeded_order, text_hash
from tlm_hf.errors import UserError

KINDS = ("high", "random", "low")
CONFIGS = [f"{task}-{kind}" for task in ("land", "water") for kind in KINDS]
TEXTS, SUBSET, SEED = 200, 50, 2
MEASURES = ("jensen_shannon_bits", "type_coverage", "occurrence_coverage")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """`corpus.txt`, and `land` and `water`, two tasks."""
    folder = tmp_path_factory.mktemp("overlap-folder")
    for name, classes in (("land", ("farm", "school")), ("water", ("sea", "school"))):
        rows = labelled_rows(30, classes=classes, seed=len(name))
        (folder / name).mkdir()
        write_csv(folder / name / "train.csv", rows[:40])
        write_csv(folder / name / "test.csv", rows[40:])
    write_corpus(folder / "corpus.txt", texts=TEXTS)
    return folder


def words(home: Path, folder: Path) -> list[object]:
    return [
        "overlap", "--corpus", home / "corpus.txt", "--tasks", home / "land", home / "water", "--vocab-size", 200,
        "--num-texts", SUBSET, "--min-count", 3, "--seed", SEED, "--output-dir", folder,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made(home) -> Path:
    succeed(*words(home, home / "made"))
    return home / "made"


def rows_of(folder: Path, config: str, split: str) -> list[dict]:
    return pq.read_table(folder / config / f"{split}-00000-of-00001.parquet").to_pylist()


def test_pretraining_gets_exactly_the_subset_and_one_validation_split(home, made):
    source = load_corpus(str(home / "corpus.txt"))
    known = {(row["text"], row["id"]) for row in source["train"]}
    chosen = {}
    for config in CONFIGS:
        rows = rows_of(made, config, "train")
        chosen[config] = [row["text"] for row in rows]
        assert len(set(chosen[config])) == SUBSET
        assert {(row["text"], row["id"]) for row in rows} <= known
        assert seeded_order(chosen[config], SEED) == list(range(SUBSET))  # it stands in seeded order
        for seed in (0, 7):
            corpus = load_corpus(str(made), config=config, seed=seed)
            assert sorted(corpus["train"]["text"]) == sorted(chosen[config])
            assert {(row["text"], row["id"]) for row in corpus["train"]} <= known
            assert corpus["validation"].to_list() == source["validation"].to_list()
        assert rows_of(made, config, "validation") == source["validation"].to_list()
    for task in ("land", "water"):
        assert len({frozenset(chosen[f"{task}-{kind}"]) for kind in KINDS}) == 3
    assert set(chosen["land-high"]) != set(chosen["water-high"])


def test_subsets_are_never_mixed(made):
    with pytest.raises(UserError):
        load_corpus(str(made))  # no configuration is the default
    alone = load_corpus(str(made / "water-high"))
    assert sorted(alone["train"]["text"]) == sorted(row["text"] for row in rows_of(made, "water-high", "train"))


def test_facts_and_card_agree_with_files(home, made):
    facts = json.loads((made / "subset.json").read_text(encoding="utf-8"))
    text = (made / "README.md").read_text(encoding="utf-8")
    card = yaml.safe_load(text.split("---\n")[1])
    assert list(facts["configs"]) == [entry["config_name"] for entry in card["configs"]] == CONFIGS
    assert not any(entry.get("default") for entry in card["configs"])
    assert card["task_categories"] == ["fill-mask", "text-generation"]
    for config, splits in facts["configs"].items():
        task, kind = config.split("-")
        train = splits["train"]
        assert train["sha256"] == text_hash(row["text"] for row in rows_of(made, config, "train"))
        assert (train["overlap"], train["task"], train["source"]) == (kind, task, "corpus.txt")
        assert [splits[split]["rows"] for split in ("train", "validation")] == [SUBSET, TEXTS // 10]
        cells = [", ".join(f"{train['measures'][split][name]:.4f}" for split in ("train", "test")) for name in MEASURES]
        assert f"| {config} | {task} | {train['tokens']:,} | {' | '.join(cells)} |\n" in text
        assert f'load_dataset("made", "{config}")\n' in text
    for task in ("land", "water"):
        trains = [facts["configs"][f"{task}-{kind}"]["train"] for kind in KINDS]
        bits = [train["measures"]["train"]["jensen_shannon_bits"] for train in trains]
        assert bits == sorted(bits) == [train["jensen_shannon_bits"] for train in trains]


def test_bad_options_are_refused_before_any_work(home, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").touch()
    for work in ("train_wordpiece", "encode_texts"):
        monkeypatch.setattr(overlap_report, work, lambda *_, work=work: pytest.fail(f"{work} was called"))
    file = home / "corpus.txt"
    good = ("overlap", "--corpus", file, "--tasks", home / "land", "--vocab-size", 300)
    for more, culprit in (
        (["--num-texts", 0], "--num-texts"),
        (["--max-length", 2], "--max-length"),
        (["--corpus", "no_such_corpus", "--corpus-texts", 50], "at most 50 (--num-texts)"),
        (["--num-texts", 181], "at most 180 (--num-texts)"),  # 20 of 200 are held out
        (["--output-dir", tmp_path / "mine"], "is there already"),
        (["--output-dir", ""], "--output-dir"),
        (["--tasks", home / "land", home / "land,"], "--tasks"),
    ):
        assert culprit in refused(capsys, *good, *more)
    with pytest.raises(pytest.fail.Exception, match="train_wordpiece"):  # as large and as small as they may be
        succeed(*good, "--num-texts", 180, "--min-count", 1)
    assert not any(path.is_file() for path in tmp_path.rglob("*") if path.name != "mine.txt")


@pytest.mark.parametrize(
    ("name", "stem"),
    [("fewrel", "fewrel"), ("a/my tasks/news|old.csv", "news-old"), ("owner/name", "name"), ("..", "")],
)
def test_names_of_configurations(name, stem):
    assert overlap_report.task_stem(name) == stem
