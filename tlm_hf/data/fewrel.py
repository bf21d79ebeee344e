"""FewRel: which relation holds between two things that a Wikipedia sentence names (Han et al., EMNLP 2018).

The official files are read as they are: `train_wiki.json` (64 relations) and `val_wiki.json` (16 others) map a
relation's Wikidata number to its sentences, each `{"tokens": [...], "h": [name, Q-id, [[token numbers], ...]], "t":
[...]}` with head and tail; `pid2name.json` beside them names the relations. They are not on the Hub.
"""

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError
from ..runs.provenance import portable_path
from .tables import Row, TaskSource

ENTITY_MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")
"""What stands before and after the head, and before and after the tail."""

MARKINGS = ("none", "text", "added")
"""No markers; markers that are ordinary text, which any tokenizer splits; markers that are meant as added tokens."""

DEFAULT_PART = "train_wiki"
NAMES_FILE = "pid2name.json"


def read_fewrel(path: str | Path, part: str | None = None, entity_markers: str = "none") -> TaskSource:
    """Read one of FewRel's files.

    A text is its tokens joined by single spaces (the files' blank tokens leave no trace). A sentence that stands under
    two relations is dropped from both, whether its copies are equal or differ in case and spaces alone; of a sentence
    that stands twice under one relation the first stays. Which sentences these are does not depend on the markers.

    Args:
        path: folder with `train_wiki.json` and `pid2name.json`, or one such file with `pid2name.json` beside it.
        part: file of the folder without its ending; None for `train_wiki`.
        entity_markers: one of `MARKINGS`; with `text` and `added`, `ENTITY_MARKERS` surround the first mention of head
            and tail. The texts are the same for both, the facts say which is meant.

    Returns:
        The rows as the split `train`, with ids such as `P931/12`; names by `pid2name.json`, classes in the order of the
        relations' numbers; rows dropped by reason; in `facts` source, SHA-256 of the file, `entity_markers`, and
        `added_tokens` where the tokenizer must know them (see `add_entity_markers`).

    Raises:
        UserError: a file is missing, truncated or of another shape, a relation has no name, or (where they are marked)
            head and tail overlap or lie outside of the sentence; the sentence names relation and row.
    """
    if entity_markers not in MARKINGS:
        raise UserError(f"--entity-markers is {entity_markers!r}: give one of {', '.join(MARKINGS)}.")
    file = Path(path).expanduser()
    if file.is_file() and part is not None and part != file.stem:
        raise UserError(
            f"{str(path)!r} is one file, so it has no part {part!r}: give the folder that holds {part}.json."
        )
    if not file.is_file():
        file = file / f"{part or DEFAULT_PART}.json"
    relations, digest = _read_json(file, "sentences by relation")
    pids = sorted(relations, key=lambda pid: (int(pid[1:]) if pid[1:].isdecimal() else 0, pid))
    if len(pids) < 2:
        raise UserError(f"{str(file)!r} holds {len(pids)} relation: give a FewRel file with at least two.")
    names = _names(file.with_name(NAMES_FILE), pids)
    rows = []
    for label, pid in enumerate(pids):
        if not isinstance(relations[pid], list):
            raise UserError(f"{str(file)!r} is no FewRel file: {pid!r} is not a list of sentences.")
        for number, item in enumerate(relations[pid]):
            tokens = _tokens(item, f"row {number} of {pid!r} in {str(file)!r}")
            plain = _joined(tokens)
            if entity_markers != "none":
                tokens = _marked(item, f"row {number} of {pid!r} in {str(file)!r}")
            rows.append(Row(_joined(tokens), label, f"{pid}/{number}", plain))
    kept, dropped = _without_repetition(rows)
    facts: dict[str, Any] = {
        "source": portable_path(str(file)),
        "revision": f"sha256:{digest}",
        "part": file.stem,
        "entity_markers": entity_markers,
    }
    if entity_markers == "added":
        facts["added_tokens"] = list(ENTITY_MARKERS)
    return TaskSource({"train": kept}, names, dropped, facts=facts)


def add_entity_markers(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> int:
    """Make `ENTITY_MARKERS` tokens of their own, and give a model an embedding for each.

    The tokenizer then keeps each of them whole, whatever its normalisation (an uncased one would read `[e1]`). The new
    rows of the model are drawn like any new weight, so set the seed before. Called again, it changes nothing. All
    members of a committee need it, or none, since a committee reads its text with one tokenizer.

    Args:
        tokenizer: changed in place.
        model: changed in place: its word embeddings, (vocabulary, hidden), and its config's `vocab_size`.

    Returns:
        How many tokens were new.
    """
    markers = [AddedToken(marker, normalized=False, special=True) for marker in ENTITY_MARKERS]
    new = tokenizer.add_tokens(markers, special_tokens=True)
    if model is not None and model.get_input_embeddings().weight.shape[0] < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return new


def apply_entity_markers(facts: dict[str, Any], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Fit tokenizer and model to the markers of a task, and say in the model's config which markers its texts bear.

    Args:
        facts: what `sources.facts_of` says of the task's training split; without `entity_markers` nothing is done.
        tokenizer: changed in place where the markers are added tokens.
        model: likewise; `config.entity_markers` becomes `text` or `added` where there are markers.
    """
    kind = facts.get("entity_markers", "none")
    if kind == "added":
        add_entity_markers(tokenizer, model)
    if kind != "none":
        model.config.entity_markers = kind


def _read_json(file: Path, what: str) -> tuple[dict[str, Any], str]:
    """A JSON object and the SHA-256 of the file."""
    try:
        content = file.read_bytes()
        found = json.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"{str(file)!r} cannot be read ({error.strerror}): give the folder of the official FewRel files, "
            f"{DEFAULT_PART}.json and {NAMES_FILE}."
        ) from error
    except (ValueError, RecursionError) as error:  # a wrong byte is a ValueError as well
        reason = str(error).splitlines()[0].rstrip(". ")
        raise UserError(f"{str(file)!r} is not whole JSON ({reason}): fetch it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{str(file)!r} is no FewRel file: it must be a JSON object of {what}.")
    return found, hashlib.sha256(content).hexdigest()


def _names(file: Path, pids: list[str]) -> list[str]:
    """Names of the relations; where two share a name, their numbers are added."""
    known, _ = _read_json(file, "[name, description] by relation")
    names = []
    for pid in pids:
        if pid not in known:
            raise UserError(f"The relation {pid!r} has no name in {str(file)!r}: add it there as [name, description].")
        entry = known[pid]
        if not isinstance(entry, list) or not entry or not isinstance(entry[0], str) or not entry[0].strip():
            raise UserError(f"The relation {pid!r} in {str(file)!r} is not [name, description]: correct it there.")
        names.append(entry[0].strip())
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({pid})" for name, pid in zip(names, pids, strict=True)]


def _tokens(item: Any, where: str) -> list[str]:
    """The tokens of a row of the official shape."""
    tokens = item.get("tokens") if isinstance(item, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise UserError(f"The {where} has no list of tokens: give files of the official shape (tokens, h, t).")
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can escape
        raise UserError(f"The {where} has a token that is no valid text: correct it.") from error
    for side in ("h", "t"):
        entity = item.get(side)
        if not isinstance(entity, list) or len(entity) != 3 or not isinstance(entity[2], list):
            raise UserError(f"The {where} has no {side!r} of the official shape [name, Q-id, [[token numbers], ...]].")
    return tokens


def _joined(tokens: list[str]) -> str:
    return " ".join(" ".join(tokens).split())


def _marked(item: dict[str, Any], where: str) -> list[str]:
    """The tokens with the markers around the first mention of head and tail."""
    tokens = list(item["tokens"])
    spans = []
    for side in ("h", "t"):
        span: Any = item[side][2][0] if item[side][2] else None
        is_span = isinstance(span, list) and len(span) > 0 and all(type(number) is int for number in span)
        if not is_span or span != list(range(span[0], span[0] + len(span))):
            raise UserError(
                f"The {where} has no unbroken span for {side!r}: correct it, or leave --entity-markers out."
            )
        if span[0] < 0 or span[-1] >= len(tokens):
            raise UserError(
                f"The {where} has the span {span[0]} to {span[-1]} for {side!r} but {len(tokens)} tokens: correct it, "
                "or leave --entity-markers out."
            )
        spans.append((span[0], span[-1] + 1))
    (head, head_end), (tail, tail_end) = spans
    if head < tail_end and tail < head_end:
        raise UserError(f"In the {where} head and tail overlap: correct it, or leave --entity-markers out.")
    # From the right, so that the numbers on the left still hold; where spans touch, the closing marker comes first.
    places = [(head, 1, ENTITY_MARKERS[0]), (head_end, 0, ENTITY_MARKERS[1])]
    places += [(tail, 1, ENTITY_MARKERS[2]), (tail_end, 0, ENTITY_MARKERS[3])]
    for place, _, marker in sorted(places, reverse=True):
        tokens.insert(place, marker)
    return tokens


def _without_repetition(rows: list[Row]) -> tuple[list[Row], Counter[str]]:
    """Rows whose sentence, without markers, stands under one relation and has not come before there."""
    exact, alike = defaultdict(set), defaultdict(set)
    for row in rows:
        exact[row.key].add(row.label)
        alike[row.key.casefold()].add(row.label)
    kept = []
    dropped: Counter[str] = Counter()
    seen = set()
    for row in rows:
        folded = row.key.casefold()
        if not row.key:
            dropped["empty text"] += 1
        elif len(exact[row.key]) > 1:
            dropped["two labels"] += 1
        elif len(alike[folded]) > 1:
            dropped["two labels but for case and spaces"] += 1
        elif folded in seen:
            dropped["duplicates"] += 1
        else:
            seen.add(folded)
            kept.append(row)
    return kept, dropped
