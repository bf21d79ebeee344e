"""FewRel (Han et al., EMNLP 2018): which relation holds between two things that a Wikipedia sentence names?

The official files, not on the Hub, map a relation's Wikidata number to sentences `{"tokens": [...], "h": [name, Q-id,
[[token numbers], ...]], "t": [...]}`.
"""

from collections import Counter, defaultdict
from pathlib import Path

from ..errors import UserError
from ..runs.atomic_files import Json, file_hash, read_json
from ..runs.provenance import portable_path
from .tables import Row, TaskSource

ENTITY_MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")  # before and after the head, and before and after the tail
MARKINGS = ("none", "text")  # no markers; markers that are ordinary text, which any tokenizer splits
DEFAULT_PART = "train_wiki"
NAMES_FILE = "pid2name.json"


def read_fewrel(path: str | Path, entity_markers: str = "none") -> TaskSource:
    """Read `train_wiki.json` of the folder `path`, or the file `path`, with `pid2name.json` beside it.

    A text is its tokens joined by single spaces, with entities marked as one of `MARKINGS` says. A sentence under two
    relations is dropped from both; of one that is twice under one relation the first stays. Ids are like `P931/12`.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        file = file / f"{DEFAULT_PART}.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: give --task-path the folder of the official FewRel files.")
    relations = read_json(file)
    if len(relations) < 2:
        raise UserError(f"{file} is not a FewRel file: give a JSON object with at least two relations.")
    pids = sorted(relations, key=lambda pid: (int(pid[1:]) if pid[1:].isdecimal() else 0, pid))
    rows = []
    for label, pid in enumerate(pids):
        for number, item in enumerate(relations[pid]):
            where = f"row {number} of {pid!r} in {file}"
            if not isinstance(item, dict) or not isinstance(item.get("tokens"), list) or not {"h", "t"} <= item.keys():
                raise UserError(f"The {where} is not of the official shape (tokens, h and t): correct it.")
            key = _joined(item["tokens"])
            text = key if entity_markers == "none" else _joined(_marked(item, where))
            rows.append(Row(text, label, f"{pid}/{number}", key))
    unique, dropped = _without_repetition(rows)
    facts: Json = {"source": portable_path(str(file)), "revision": f"sha256:{file_hash(file)}"}
    facts["entity_markers"] = entity_markers
    return TaskSource({"train": unique}, _names(file.with_name(NAMES_FILE), pids), dropped, facts=facts)


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
    tokens, spans, remedy = list(item["tokens"]), [], "correct it, or leave --entity-markers out"
    for side in ("h", "t"):
        span = (item[side][2] or [[]])[0]
        if not span or span != list(range(span[0], span[-1] + 1)) or span[0] < 0 or span[-1] >= len(tokens):
            raise UserError(f"The {where} has no unbroken span for {side!r} inside its tokens: {remedy}.")
        spans.append((span[0], span[-1] + 1))
    (head, head_end), (tail, tail_end) = spans
    if head < tail_end and tail < head_end:
        raise UserError(f"In the {where} head and tail overlap: {remedy}.")
    opening = {head: ENTITY_MARKERS[0], tail: ENTITY_MARKERS[2]}
    closing = {head_end: ENTITY_MARKERS[1], tail_end: ENTITY_MARKERS[3]}
    marked = ((closing.get(place), opening.get(place), *tokens[place : place + 1]) for place in range(len(tokens) + 1))
    return [word for words in marked for word in words if word is not None]


def _without_repetition(rows: list[Row]) -> tuple[list[Row], Counter[str]]:
    """Rows whose sentence, without markers and in any case, is under one relation and has not come before there."""
    labels = defaultdict(set)
    for row in rows:
        labels[row.key.casefold()].add(row.label)
    unique: dict[str, Row] = {}
    dropped: Counter[str] = Counter()
    for row in rows:
        sentence = row.key.casefold()
        if not sentence or len(labels[sentence]) > 1 or sentence in unique:
            several = "two labels" if len(labels[sentence]) > 1 else "duplicates"
            dropped[several if sentence else "empty text"] += 1
        else:
            unique[sentence] = row
    return list(unique.values()), dropped
