"""Another process, with another hash seed, trains, counts and chooses the same. Oracle: this process."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np

from tlm_hf.data import docstrings
from tlm_hf.data.cooccurrence import count_rows
from tlm_hf.data.overlap import count_tokens, encode_texts
from tlm_hf.data.overlap_subsets import select_subsets
from tlm_hf.data.tokenization import train_wordpiece

CODE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_another_process import results
print(json.dumps(results(sys.argv[2], json.loads(sys.argv[3]))))
"""


def results(folder, sentences):
    docstrings.CORPUS_LIBRARIES = ("jinja2", "tokenizers")
    corpus = docstrings.load_docstrings(Path(folder))
    tokenizer = train_wordpiece(sentences, vocab_size=120)
    rows = [np.random.default_rng(seed).integers(300, size=40) for seed in range(200)]
    texts = [f"{one} {other}" for one, other in itertools.permutations(sentences, 2)]
    task_counts = count_tokens(encode_texts(["a boat on the river", "the river and the bridge"], tokenizer))
    subsets = select_subsets(encode_texts(texts, tokenizer), texts, task_counts, 30)
    return {
        "vocabulary": tokenizer.get_vocab(),
        "counts": hashlib.sha256(count_rows(rows, 300, 32, [0]).tobytes()).hexdigest(),
        "docstrings": {split: corpus[split].to_list() for split in corpus},
        "subsets": [[kind, places.tolist()] for kind, places in subsets.items()],
    }


def test_another_process_finds_the_same(tmp_path, monkeypatch, sentences, run_with_package):
    monkeypatch.setattr(docstrings, "CORPUS_LIBRARIES", ())  # given back after the test
    ours = results(str(tmp_path / "here"), sentences)
    assert len(ours["docstrings"]["train"]) > 100
    here = str(Path(__file__).parent)
    assert run_with_package(CODE, here, str(tmp_path / "there"), json.dumps(sentences)) == json.loads(json.dumps(ours))
