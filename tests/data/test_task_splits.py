"""Which rows come into which split of a task: the paper's sizes, shortfalls and what is said about them.

Oracles: rows that the test wrote, counted.
"""

import datasets
import pytest
from helpers_commands import labelled_rows, write_csv

from tlm_hf.data.sources import facts_of
from tlm_hf.data.tables import KNOWN
from tlm_hf.data.tasks import SPLITS, TaskArguments, class_names, load_task, load_task_from, task_hash
from tlm_hf.errors import UserError


def refusal(one_sentence, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_task(*arguments, **options)
    return one_sentence(caught.value)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """A data root whose AG News has 1,300 training and 1,000 test texts a class, of the last class 40 fewer."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "ag_news").mkdir()
    for split, size in (("train", 1300), ("test", 1000)):
        rows = [
            {"text": f"{split} {label} {index}", "label": label}
            for label in range(4)
            for index in range(size - 40 * (label == 3))
        ]
        datasets.Dataset.from_list(rows).to_parquet(str(folder / "ag_news" / f"{split}.parquet"))
    return str(folder)


class TestSizes:
    def test_the_papers_numbers_are_the_default_and_fewer_are_refused(self, root, one_sentence):
        said = refusal(one_sentence, "ag_news", root=root)
        for part in ("1000 test texts", "'Sci/Tech'", "at most 960", "--shortfall take"):
            assert part in said

    def test_all_that_there_is_can_be_asked_for(self, root, caplog):
        task = load_task("ag_news", root=root, shortfall="take")
        names = class_names(task)
        sizes = {split: [facts_of(task[split])["per_label"][label] for label in names] for split in SPLITS}
        assert sizes["train"] == [1000] * 4
        assert sizes["validation"] == [130, 130, 130, 126]
        assert sizes["test"] == [1000, 1000, 1000, 960]
        (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("tlm_hf")]
        assert "'Sci/Tech' with 960" in said
        task = load_task("ag_news", root=root, all_rows=True)
        assert [facts_of(task["train"])["per_label"][label] for label in names] == [1170, 1170, 1170, 1134]
        assert facts_of(task["train"])["asked_per_label"] == dict.fromkeys(SPLITS)

    @pytest.mark.parametrize(
        ("options", "split"),
        [
            ({"validation_per_label": 50}, "train"),
            ({"test_per_label": 39}, "validation"),
            ({"test_per_label": 20, "validation_per_label": 20}, "train"),
        ],
    )
    def test_a_split_without_rows_of_a_class_is_refused(self, tmp_path, one_sentence, options, split):
        path = str(write_csv(tmp_path / "task.csv", labelled_rows(40)))
        said = refusal(one_sentence, path, shortfall="take", **options)
        for part in (f"no {split} text left", "'farm'", "--validation-per-label"):
            assert part in said

    def test_numbers_that_are_given_count_and_nest(self, root):
        few = load_task("ag_news", root=root, train_per_label=50, test_per_label=10)
        many = load_task("ag_news", root=root, test_per_label=10)
        assert facts_of(many["train"])["asked_per_label"] == {"train": 1000, "validation": None, "test": 10}
        assert set(few["train"]["id"]) < set(many["train"]["id"])
        assert few["test"].to_list() == many["test"].to_list()
        assert set(facts_of(few["train"])["per_label"].values()) == {50}

    def test_other_tables_are_taken_whole(self, tmp_path):
        path = write_csv(tmp_path / "task.csv", labelled_rows(40))
        assert task_hash(load_task(str(path))) == task_hash(load_task(str(path), all_rows=True))

    @pytest.mark.parametrize("name", ["ag_news", "dbpedia_14"])
    @pytest.mark.parametrize("revision", [None, "other"])
    def test_the_hub_is_read_at_a_pinned_revision(self, name, revision, monkeypatch, tmp_path):
        known, asked = KNOWN[name], []
        rows = [{known.text_column: f"{i} word", "label": i % len(known.labels)} for i in range(1000)]

        def load_dataset(*arguments, **options):
            asked.append((arguments, options))
            halves = {"train": rows[:700], "test": rows[700:]}
            return datasets.DatasetDict({split: datasets.Dataset.from_list(part) for split, part in halves.items()})

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("TLM_DATA", raising=False)
        task = load_task(name, root=str(tmp_path), revision=revision, train_per_label=5, test_per_label=5)
        expected = revision or known.revision
        assert asked == [((known.hub, None), {"revision": expected})]
        assert len(known.revision) == 40
        facts = facts_of(task["validation"])
        assert (facts["source"], facts["revision"]) == (known.hub, expected)

    def test_options_reach_the_task(self, root, tmp_path):
        arguments = TaskArguments(task="ag_news", data_root=root, train_per_label=9, test_per_label=4, task_seed=3)
        expected = load_task("ag_news", root=root, train_per_label=9, test_per_label=4, seed=3)
        assert task_hash(load_task_from(arguments)) == task_hash(expected)
        arguments = TaskArguments(task="ag_news", task_path=f"{root}/ag_news", all_rows=True)
        assert len(load_task_from(arguments)["test"]) == 3960
        arguments = TaskArguments(task="ag_news", data_root=root, shortfall="take")
        assert len(load_task_from(arguments)["test"]) == 3960
        with pytest.raises(UserError, match="--entity-markers"):
            load_task_from(TaskArguments(task="ag_news", data_root=root, entity_markers="added"))
        with pytest.raises(UserError, match="--task-path"):
            load_task_from(TaskArguments(task=str(tmp_path), task_path=root))
        with pytest.raises(UserError, match="does not exist"):
            load_task_from(TaskArguments(task="ag_news", task_path="no/where"))
        with pytest.raises(UserError, match="--all-rows"):
            load_task_from(TaskArguments(all_rows=True))
