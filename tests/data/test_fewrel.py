"""FewRel: official files read as they are, sentences under two relations, markers around the entities, bad files."""

import collections
import json
from pathlib import Path

import pytest
from conftest import refusal

from tlm_hf.data.fewrel import ENTITY_MARKERS, read_fewrel
from tlm_hf.data.kinds import class_names
from tlm_hf.data.tasks import SPLITS, load_task

PLACES = ("Aland", "Borin", "Cesta", "Dorum", "Eskil", "Fjern", "Gatta")


def sentence(number: int, verb: str) -> dict:
    """A sentence of the official shape; head is token 0, tail the two tokens before the full stop."""
    tokens = [PLACES[number % len(PLACES)], verb, "near", "Lake", f"{number}", "."]
    return {"tokens": tokens, "h": [tokens[0].lower(), "", [[0]]], "t": [f"lake {number}", "Q1", [[3, 4]]]}


def write(folder: Path, relations: dict, names: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train_wiki.json").write_text(json.dumps(relations), encoding="utf-8")
    names = names or {pid: [f"name of {pid}", "what it is"] for pid in (*relations, "P999")}
    (folder / "pid2name.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    relations = {"P20": ("lies", 40), "P3": ("stands", 50), "P100": ("sleeps", 44)}
    return write(
        tmp_path_factory.mktemp("data") / "fewrel",
        {pid: [sentence(number, verb) for number in range(count)] for pid, (verb, count) in relations.items()},
    )


def load(folder: Path, train: int | None = 20, test: int | None = 5, **options):
    return load_task("fewrel", path=str(folder), train_per_label=train, test_per_label=test, **options)


def rows_of(task) -> list[tuple]:
    return [(split, row["id"], row["label"], row["text"]) for split in SPLITS for row in task[split]]


class TestRows:
    def test_splits_are_balanced_disjoint_and_named(self, folder):
        task = load(folder)
        assert class_names(task) == ["name of P3", "name of P20", "name of P100"]
        sizes = {split: collections.Counter(task[split]["label"]) for split in SPLITS}
        assert sizes["train"] == {0: 20, 1: 20, 2: 20}
        assert sizes["test"] == {0: 5, 1: 5, 2: 5}
        assert sizes["validation"] == {0: 4, 1: 4, 2: 4}  # a tenth of 45, 35 and 39, halves to the even number
        verbs = {"P20": "lies", "P3": "stands", "P100": "sleeps"}
        rows = rows_of(task)
        assert len({text for *_, text in rows}) == len({row_id for _, row_id, *_ in rows}) == len(rows) == 87
        for _, row_id, label, text in rows:
            pid, number = row_id.split("/")
            assert text == " ".join(sentence(int(number), verbs[pid])["tokens"])
            assert class_names(task)[label] == f"name of {pid}"

    def test_sentence_under_two_relations_is_dropped_from_both_and_counted(self, tmp_path):
        def shouted(item):
            return {**item, "tokens": [*(token.upper() for token in item["tokens"]), " "]}

        first = [sentence(number, "lies") for number in range(20)]
        second = [sentence(number, "stands") for number in range(20)]
        second += [first[4], shouted(first[5]), second[7], shouted(second[8])]
        folder = write(tmp_path / "twice", {"P1": first, "P2": second})
        source = read_fewrel(folder)
        assert source.dropped == {"two labels": 4, "duplicates": 2}
        gone = {"P1/4", "P2/20", "P1/5", "P2/21", "P2/22", "P2/23"}
        written = {*(f"P1/{number}" for number in range(20)), *(f"P2/{number}" for number in range(24))}
        assert {row.id for row in source.rows["train"]} == written - gone

    def test_blank_tokens_and_empty_sentences(self, tmp_path):
        rows = [sentence(number, "lies") for number in range(4)]
        rows[0]["tokens"] = ["Aland", "\n\n", "lies", "\xa0", "here"]
        rows[1]["tokens"] = [" ", ""]
        source = read_fewrel(write(tmp_path, {"P1": rows, "P2": [sentence(9, "stands")]}))
        assert source.rows["train"][0].text == "Aland lies here"
        assert source.dropped == {"empty text": 1}

    def test_relations_of_one_name_stay_apart(self, tmp_path):
        names = {"P1": ["part of", ""], "P2": ["part of", ""], "P3": ["owner", ""]}
        folder = write(tmp_path, {pid: [sentence(1, pid)] for pid in names}, names)
        assert read_fewrel(folder).names == ["part of (P1)", "part of (P2)", "owner"]


def test_the_papers_numbers_are_the_default(tmp_path):
    folder = write(tmp_path, {pid: [sentence(n, pid) for n in range(size)] for pid, size in (("P1", 700), ("P2", 790))})
    task = load_task("fewrel", path=str(folder))
    sizes = {split: collections.Counter(task[split]["label"]) for split in SPLITS}
    assert sizes["train"] == {0: 567, 1: 567}  # with validation 630
    assert sizes["validation"] == {0: 63, 1: 72}
    assert sizes["test"] == {0: 70, 1: 70}
    assert len(load_task("fewrel", path=str(folder), train_per_label=600, validation_per_label=30)["train"]) == 1200


class TestMarkers:
    @pytest.mark.parametrize(
        ("head", "tail", "expected"),
        [
            ([[0]], [[3, 4]], "[E1] a [/E1] b c [E2] d e [/E2] f"),
            ([[3, 4]], [[0]], "[E2] a [/E2] b c [E1] d e [/E1] f"),
            ([[1, 2]], [[3]], "a [E1] b c [/E1] [E2] d [/E2] e f"),
            ([[1], [4]], [[2], [5]], "a [E1] b [/E1] [E2] c [/E2] d e f"),
        ],
    )
    def test_places(self, tmp_path, head, tail, expected):
        item = {"tokens": list("abcdef"), "h": ["x", "", head], "t": ["y", "", tail]}
        folder = write(tmp_path, {"P1": [item], "P2": [sentence(1, "lies")]})
        assert read_fewrel(folder, entity_markers="text").rows["train"][0].text == expected
        assert read_fewrel(folder).rows["train"][0].text == "a b c d e f"

    def test_markers_do_not_change_the_choice(self, folder):
        plain, text = (load(folder, entity_markers=kind) for kind in ("none", "text"))
        for row, marked in zip(rows_of(plain), rows_of(text), strict=True):
            assert row[:3] == marked[:3]
            assert row[3] == " ".join(word for word in marked[3].split() if word not in ENTITY_MARKERS)
            assert all(marked[3].count(marker) == 1 for marker in ENTITY_MARKERS)


class TestRefusals:
    @pytest.fixture
    def say(self, tmp_path):
        """Function `(content of train_wiki.json, ...)` that asserts a refusal and returns the sentence."""

        def refuse(content, names=None, **options) -> str:
            write(tmp_path, {})
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / "train_wiki.json").write_bytes(text)
            if names is not None:
                (tmp_path / "pid2name.json").write_bytes(
                    names if isinstance(names, bytes) else json.dumps(names).encode()
                )
            return refusal(load_task, "fewrel", path=str(tmp_path), train_per_label=1, test_per_label=1, **options)

        return refuse

    NAMES = {"P1": ["one", ""], "P2": ["two", ""]}

    def test_files(self, say, tmp_path):
        whole = json.dumps({pid: [sentence(n, pid) for n in range(9)] for pid in ("P1", "P2")}).encode()
        for content in (whole[:-30], b"\xff\xfe{}", whole.replace(b"near", b"n\xe9ar")):
            assert "train_wiki.json" in say(content, self.NAMES)
        assert "is not JSON" in say(whole, b'{"P1": ["on')
        assert "'P2'" in say(whole, {"P1": ["one", ""]})
        (tmp_path / "pid2name.json").unlink()
        assert "pid2name.json" in refusal(load_task, "fewrel", path=str(tmp_path))
        assert "--task-path" in refusal(load_task, "fewrel", path=str(tmp_path / "nowhere"))

    def test_shapes(self, say):
        good = [sentence(n, "lies") for n in range(3)]
        for content, said in (([good], "no JSON object"), ({"P1": good}, "two relations")):
            assert said in say(content, self.NAMES)
        for row in (["a", "b"], {**good[0], "tokens": "a b"}, {"tokens": ["a"], "h": good[0]["h"]}):
            assert "row 2 of 'P2'" in say({"P1": good, "P2": [*good[:2], row]}, self.NAMES)

    @pytest.mark.parametrize(
        ("head", "said"), [([[3]], "overlap"), ([[6]], "unbroken"), ([[0, 2]], "unbroken"), ([], "unbroken")]
    )
    def test_spans(self, say, head, said):
        broken = {**sentence(8, "lies"), "h": ["x", "", head]}
        relations = {
            "P1": [sentence(n, "lies") for n in range(8)],
            "P2": [*(sentence(n, "stands") for n in range(8)), broken],
        }
        found = say(relations, self.NAMES, entity_markers="text")
        assert said in found
        assert "row 8 of 'P2'" in found
