"""Another process, with another hash seed, trains, counts and chooses the same. Oracle: this process."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
from helpers_commands import run

from tlm_hf.data import docstrings
from tlm_hf.data.cooccurrence import count_rows
from tlm_hf.data.overlap import count_tokens, encode_texts
from tlm_hf.data.overlap_subsets import select_subsets
from tlm_hf.data.tokenization import train_wordpiece

CODE = """
import json, sys
sys.path.append("..")
from test_another_process import results
print(json.dumps(results(sys.argv[1], json.loads(sys.argv[2]))))
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


def test_another_process_finds_the_same(tmp_path, monkeypatch, sentences):
    monkeypatch.setattr(docstrings, "CORPUS_LIBRARIES", ())  # given back after the test
    ours = results(str(tmp_path / "here"), sentences)
    assert len(ours["docstrings"]["train"]) > 100
    words, folder = (tmp_path / "there", json.dumps(sentences)), Path(__file__).parent
    done = run("-c", CODE, *words, folder=folder, PYTHONHASHSEED="12345")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(json.dumps(ours))
