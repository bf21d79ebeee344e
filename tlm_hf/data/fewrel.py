"""FewRel (Han et al., EMNLP 2018): which relation holds between two things that a Wikipedia sentence names?

Its files map a Wikidata number to sentences `{"tokens": [...], "h": [name, Q-id, [[token numbers], ...]], "t": ...}`.
"""

from collections import Counter, defaultdict
from pathlib import Path

from ..errors import UserError
from ..runs.atomic_files import Json, read_json
from .tables import Row, TaskSource

ENTITY_MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")  # before and after the head, and before and after the tail
MARKINGS = ("none", "text")  # no markers; markers that are ordinary text, which any tokenizer splits


def read_fewrel(path: str | Path, entity_markers: str = "none") -> TaskSource:
    """Read `train_wiki.json` of a folder, or a file like it; a sentence of two relations is dropped from both."""
    file = Path(path).expanduser()
    if not file.is_file():
        file = file / "train_wiki.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: give --task-path the folder of the official FewRel files.")
    relations = read_json(file)
    if len(relations) < 2:
        raise UserError(f"{file} is not a FewRel file: give a JSON object with at least two relations.")
    pids = sorted(relations, key=lambda pid: (int(pid[1:]) if pid[1:].isdecimal() else 0, pid))
    rows, labels = [], defaultdict(set)
    seen: set[str] = set()
    for label, pid in enumerate(pids):
        if not isinstance(relations[pid], list):
            raise UserError(f"The relation {pid!r} in {file} is not a list of sentences: correct it.")
        for number, item in enumerate(relations[pid]):
            where = f"row {number} of {pid!r} in {file}"
            tokens = item.get("tokens") if isinstance(item, dict) and {"h", "t"} <= item.keys() else None
            if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
                raise UserError(f"The {where} is not of the official shape (tokens, h and t): correct it.")
            key = _joined(item["tokens"])
            text = key if entity_markers == "none" else _joined(_marked(item, where))
            rows.append(Row(text, label, f"{pid}/{number}", key))
            labels[key.casefold()].add(label)
    source = TaskSource({"train": []}, _names(file.with_name("pid2name.json"), pids))
    for row in rows:
        sentence = row.key.casefold()
        if sentence and len(labels[sentence]) == 1 and sentence not in seen:
            source.rows["train"].append(row)
        else:
            several = "two labels" if len(labels[sentence]) > 1 else "duplicates"
            source.dropped[several if sentence else "empty text"] += 1
        seen.add(sentence)
    return source


def _names(file: Path, pids: list[str]) -> list[str]:
    """Names of the relations; where two share a name, their numbers are added."""
    known = read_json(file)
    for pid in pids:
        if not isinstance(known.get(pid), list) or not known[pid]:
            raise UserError(f"The relation {pid!r} has no name in {file}: add it there as [name, description].")
    names = {pid: known[pid][0].strip() for pid in pids}
    times = Counter(names.values())
    return [name if times[name] == 1 else f"{name} ({pid})" for pid, name in names.items()]


def _joined(tokens: list[str]) -> str:
    return " ".join(" ".join(tokens).split())


def _marked(item: Json, where: str) -> list[str]:
    tokens, is_broken = [*item["tokens"]], False
    places: list[int] = []
    for side in ("h", "t"):
        spans = item[side][2:3]  # its name, its Q-id and where it stands
        span = (spans and spans[0] and spans[0][0]) or [-1]
        is_broken |= span[0] < 0 or span[-1] >= len(tokens) or span != list(range(span[0], span[-1] + 1))
        places += [span[0], span[-1] + 1]
    if is_broken or (places[0] < places[3] and places[2] < places[1]):
        fault = "no unbroken spans for h and t inside its tokens that do not overlap"
        raise UserError(f"The {where} has {fault}: correct it, or leave --entity-markers out.")
    markers = zip(places, ENTITY_MARKERS, strict=True)
    for place, marker in sorted(markers, key=lambda each: (each[0], "/" not in each[1]), reverse=True):
        tokens.insert(place, marker)  # from the end, so that earlier places stay; one that closes comes first
    return tokens
