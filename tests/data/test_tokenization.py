"""Tokenizers: trained the same in every process, read from `vocab.txt` without loss, refused where they do not fit."""

import json
import os
from pathlib import Path

import datasets
import pytest
import transformers
from conftest import refusal
from helpers_commands import write_corpus
from tokenizers import BertWordPieceTokenizer

from tlm_hf.data.sources import read_source
from tlm_hf.data.tokenization import (
    SPECIAL_TOKENS,
    TextFacts,
    load_tokenizer,
    tokenize,
    tokenizer_hash,
    train_wordpiece,
)
from tlm_hf.loading import load_matching_tokenizer

DATA = os.environ.get("TLM_DATA")
KNOWN = "The old miller counts every goat behind the lighthouse, and the captain reads a book."
HARD = [
    "Unaffable naïve café owners' co-operative, 1,234.56 € — 東京 (Tokyo) isn't far!",
    "  tabs\tand\nnewlines  ",
    "#39;s quot;raw\\artefacts &lt;b&gt; http://example.org/?q=1",
    "supercalifragilisticexpialidocious" * 4,
    "[MASK] and [SEP] in a text",
    "ÀÉÎõü ﬁ ½ ²",
    "🙂 emoji",
    "",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = write_corpus(tmp_path_factory.mktemp("corpus") / "corpus.txt", texts=300)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{KNOWN}\n" * 3)
    return path


@pytest.fixture(scope="module")
def trained(corpus) -> transformers.PreTrainedTokenizerBase:
    return train_wordpiece(corpus.read_text(encoding="utf-8").splitlines(), vocab_size=250, max_length=24)


def test_known_sentence_has_no_unknown_token_and_comes_back(trained):
    ids = trained(KNOWN)["input_ids"]
    assert trained.unk_token_id not in ids
    assert ids[0] == trained.cls_token_id
    assert ids[-1] == trained.sep_token_id
    decoded = trained.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == KNOWN.lower().replace(" ", "")
    assert len(ids) < len(KNOWN) / 2, "the vocabulary falls back to letters"


def test_saved_tokenizer_opens_with_auto_tokenizer(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [KNOWN, *HARD]
    assert opened(texts)["input_ids"] == trained(texts)["input_ids"]
    assert type(opened).__name__ == "BertTokenizer"
    assert opened.model_max_length == 24
    ours = load_tokenizer(str(tmp_path), max_length=16)
    assert ours(texts)["input_ids"] == trained(texts)["input_ids"]
    assert ours.model_max_length == 16
    assert "auto_map" not in json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer_hash(ours) == tokenizer_hash(trained)


def test_training_reads_the_texts_where_they_lie(corpus, trained):
    """A column of a table, read batch by batch, and an iterator, which ends: the vocabulary of the list."""
    texts = corpus.read_text(encoding="utf-8").splitlines()
    column = datasets.Dataset.from_dict({"text": texts}).select(range(len(texts)))["text"]
    for given in (column, iter(texts)):
        again = train_wordpiece(given, vocab_size=250, max_length=24)
        assert again.get_vocab() == trained.get_vocab()
        assert tokenizer_hash(again) == tokenizer_hash(trained)


LANGUAGES = {
    "German": (["Möchten Sie größere Brötchen oder schöne Äpfel für die Küche?"], "möchte", "mochte"),
    "Japanese": (["これが私のかばんです。かばんがあります。"], "が", "か"),
    "Vietnamese": (["Tôi muốn mua một quyển sách mới ở Hà Nội."], "má", "mà"),
    "Thai": (["สวัสดีครับ ผมชอบกินข้าวผัดที่บ้านของเพื่อน"], "กิน", "กน"),
    "Arabic": (["مُحَمَّدٌ كَتَبَ الكِتَابَ فِي البَيْتِ"], "كَتَبَ", "كتب"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_accents_are_kept_unless_the_text_is_english_like(language, tmp_path, caplog):
    texts, word, other = LANGUAGES[language]
    letters = [" ".join({*word, *other})]  # so that both words can be written
    caplog.set_level("INFO", "tlm_hf")
    ours = train_wordpiece(texts * 20 + letters, vocab_size=150)
    assert "kept (--keep-accents false" in caplog.text
    ours.save_pretrained(tmp_path)
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for tokenizer in (ours, opened):
        assert tokenizer(word)["input_ids"] != tokenizer(other)["input_ids"]
    stripped = train_wordpiece(texts * 20 + letters, vocab_size=150, keep_accents=False)
    assert stripped(word)["input_ids"] == stripped(other)["input_ids"]


def test_english_stays_uncased_without_accents_and_options_change_that(corpus, trained, caplog):
    texts = corpus.read_text(encoding="utf-8").splitlines()
    caplog.set_level("INFO", "tlm_hf")
    again = train_wordpiece(texts, vocab_size=250, max_length=24)
    assert "stripped (--keep-accents" in caplog.text
    train_wordpiece(["word " * 35 + "é"] * 9, 100)  # 1 letter of 141 is too many
    assert "kept (--keep-accents" in caplog.text
    # As `tokenizers` with BERT's own normalizer and every letter gives it.
    assert again.get_vocab() == trained.get_vocab() == train_wordpiece(texts, 250, keep_accents=False).get_vocab()
    assert again.tokenize("Café") == again.tokenize("cafe")
    kept = train_wordpiece([*texts, "café é É"], 300, keep_accents=True)
    assert kept.tokenize("Café")[-1] != kept.tokenize("cafe")[-1]
    assert kept.tokenize("Café") == kept.tokenize("café")
    cased = train_wordpiece([*texts, "café é É C c A a"], 300, cased=True)
    assert len({tuple(cased.tokenize(word)) for word in ("A", "a", "É", "é")}) == 4


def test_the_alphabet_is_as_large_as_needed_and_unknown_letters_are_counted(caplog):
    letters = [chr(0x4E00 + index) for index in range(3276)]  # Chinese, each as frequent as the others
    texts = ["".join(letters[start : start + 40]) for start in range(0, 3276, 20)]
    ours = train_wordpiece(texts, vocab_size=8000)
    facts = TextFacts.of_texts(texts, ours, 512)
    assert facts.unknown_share < 0.002
    facts.warn_of_unknown()
    assert not caplog.records
    tight = train_wordpiece(texts, vocab_size=3400)  # a Chinese character is one token, not two
    assert TextFacts.of_texts(texts, tight, 512).unknown_share < 0.002
    assert len(tight) <= 3400
    small = train_wordpiece(texts, vocab_size=1000)
    facts = TextFacts.of_texts(texts, small, 512)
    assert facts.unknown_share == pytest.approx(1 - 1000 / 3276, abs=0.02)  # all but 1,000 of 3,276 letters
    facts.warn_of_unknown()
    assert "--vocab-size" in caplog.text


def test_frequent_letters_come_first_and_words_of_one_place_do_not_count():
    rare = ["".join(chr(0x4E00 + index) for index in range(start, start + 50)) for start in range(0, 1500, 50)]
    ours = train_wordpiece([*rare, *["\u6b63\u592a"] * 200], vocab_size=1100)
    assert ours.unk_token_id not in ours("\u6b63\u592a")["input_ids"]  # though the other letters were seen before
    vocabulary = train_wordpiece([*["abcdef"] * 2, "uvwxyz"], vocab_size=200).get_vocab()
    assert "abcdef" in vocabulary
    assert "uvwxyz" not in vocabulary


def test_tokenize_truncates_and_keeps_special_tokens(trained, corpus):
    dataset = read_source(str(corpus)).splits["train"].select(range(40))
    rows = tokenize(dataset, trained, max_length=10)
    assert rows.column_names == ["input_ids"]
    for text, ids in zip(dataset["text"], rows["input_ids"], strict=True):
        whole = trained(text)["input_ids"]
        assert ids == (whole if len(whole) <= 10 else [*whole[:9], trained.sep_token_id])


@pytest.mark.parametrize("name", ["own", "bert-base"])
def test_vocab_file_equals_the_reference_tokenizer(trained, tmp_path, name):
    path = tmp_path / "vocab.txt"
    path.write_text(
        "\n".join(sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)) + "\n", encoding="utf-8"
    )
    if name == "bert-base":
        if not DATA:
            pytest.skip("TLM_DATA is not set: no bert-base vocabulary to read")
        path = Path(DATA) / "vocab" / "vocab.txt"
    reference, ours = BertWordPieceTokenizer(str(path), lowercase=True), load_tokenizer(str(path))
    assert (len(ours), ours.model_max_length) == (reference.get_vocab_size(), 512)
    for text in (KNOWN, *HARD):
        assert ours(text)["input_ids"] == reference.encode(text).ids, text
    assert ours.unk_token_id not in ours(KNOWN)["input_ids"]


def test_a_vocabulary_with_capital_letters_is_cased(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, "Haus", "haus", "##tür", "é"]), encoding="utf-8")
    tokens = load_tokenizer(str(path)).tokenize("Haus haus Haustür É é")
    assert tokens == ["Haus", "haus", "Haus", "##tür", "[UNK]", "é"]
    path.write_text("\n".join([*SPECIAL_TOKENS, "haus", "mochte", "möchte"]), encoding="utf-8")
    assert load_tokenizer(str(path)).tokenize("Haus Möchte mochte") == ["haus", "möchte", "mochte"]


def test_a_vocabulary_with_windows_line_ends_and_strange_tokens(tmp_path):
    tokens = [*SPECIAL_TOKENS, "\u2028", "\x85", "a", "##b"]
    (tmp_path / "unix.txt").write_bytes("\n".join(tokens).encode())
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbf" + "".join(f"{token}\r\n" for token in tokens).encode())
    for name in ("unix.txt", "windows.txt"):
        tokenizer = load_tokenizer(str(tmp_path / name))
        assert tokenizer.get_vocab() == {token: index for index, token in enumerate(tokens)}
        assert tokenizer("ab")["input_ids"] == [2, 7, 8, 3]


def test_tokenizers_that_do_not_fit_are_refused(trained, tmp_path):
    trained.save_pretrained(tmp_path / "tokenizer")
    sentence = refusal(load_matching_tokenizer, str(tmp_path / "tokenizer"), len(trained) - 1)
    assert str(len(trained)) in sentence
    assert str(len(trained) - 1) in sentence
    (tmp_path / "hollow").mkdir()
    assert "hollow" in refusal(load_tokenizer, str(tmp_path / "hollow"))
    lines = {"prose.txt": "just a text\n", "empty.txt": "", "maskless.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n"}
    for name, content in lines.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert "[MASK]" in refusal(load_tokenizer, str(tmp_path / name))
    special = "\n".join(SPECIAL_TOKENS)
    lines = {
        "twice.txt": (f"{special}\na\nb\na\n", "'a' twice"),
        "gap.txt": (f"{special}\n\na\n", "'' twice, or empty"),
    }
    for name, (content, said) in lines.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        sentence = refusal(load_tokenizer, str(tmp_path / name))
        assert said in sentence
        assert name in sentence
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    assert "bytes.txt" in refusal(load_tokenizer, str(tmp_path / "bytes.txt"))
    broken = tmp_path / "broken"
    trained.save_pretrained(broken)
    for content in ("{", json.dumps({"version": "1.0"})):
        (broken / "tokenizer.json").write_text(content, encoding="utf-8")
        assert "broken" in refusal(load_tokenizer, str(broken))
