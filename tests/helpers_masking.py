"""Token rows for the tests of masking and of the fixed-mask loss."""

import numpy as np

SPECIAL = range(5)  # [PAD] [UNK] [CLS] [SEP] [MASK], the first entries of a vocabulary trained here


def make_rows(tokenizer, count, seed=0, longest=30):
    """Texts of random ordinary tokens between [CLS] and [SEP], with an [UNK] now and then."""
    rng = np.random.default_rng(seed)
    rows = []
    for item in range(count):
        ids = rng.integers(len(SPECIAL), len(tokenizer), rng.integers(1, longest))
        ids[rng.random(len(ids)) < 0.05] = tokenizer.unk_token_id
        rows.append({"input_ids": np.array([tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]), "item": item})
    return rows
