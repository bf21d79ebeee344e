"""A linear model of tokens, their pairs, words, letters and word vectors, folded into the rows of a table.

On small tables it beats fine-tuned members, so `train-committee` adds it to their logits. Letters and vectors relate
tokens that training texts lack to those that they have.
"""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import block_diag, csr_matrix, diags, hstack
from scipy.sparse.linalg import norm
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..data.embedded import model_folder, pretrained
from ..data.kinds import labels_of, texts_of
from ..data.tokenization import encode_whole, load_tokenizer, tokenizer_hash
from ..models.combination_committee import MULTI, REGRESSION, SINGLE, combine
from ..models.lexical_committee import LexicalTable, hash_pairs, hash_words
from ..models.modeling_committee import CommitteeForSequenceClassification
from ..models.modeling_tlm import TLMModel

COUNTED = "tlm-words"  # the embedded encoder whose word rows are vectors of co-occurrence counts
BUCKETS = 32768  # for pairs, and as many for words
STRENGTH = 0.3  # inverse regularisation; chosen on tasks that no benchmark reports (docs/benchmarks.md)
RIDGE = 1.0  # regularisation of a regression
OF_TEXTS, OF_PAIRS = (0.15, 6.0), (1.0, 1.0)  # factors of members and table, before validation texts change them
FEW, OF_FEW = 100, (0.3, 6.0)  # training texts up to which those of `OF_FEW` are the start
TRUST = 5.0  # penalty in nats of a factor that is e times as large or as small
LEAST_SHARE = 0.1  # of a regression's members, whose spread says how sure the committee is


def word_vectors(tokenizer: PreTrainedTokenizerBase, encoders: list[str]) -> np.ndarray:
    """Rows of the tokens, float32 (tokens, size): the counted encoder's, or else the first encoder's."""
    source = encoders[0]
    if COUNTED in pretrained() and tokenizer_hash(load_tokenizer(model_folder(COUNTED))) == tokenizer_hash(tokenizer):
        source = COUNTED
    rows = TLMModel.from_pretrained(model_folder(source), add_pooling_layer=False).embeddings.word_embeddings.weight
    return rows.detach().float().numpy()


def text_means(tokenizer: PreTrainedTokenizerBase, vectors: np.ndarray) -> Callable[[Sequence[str]], np.ndarray]:
    """Function from texts to the means of their tokens' vectors, float32 (texts, size); of no token that of [PAD]."""
    encode = encode_whole(tokenizer)
    return lambda texts: np.stack([vectors[ids or [tokenizer.pad_token_id]].mean(axis=0) for ids in encode(texts)])


def count_tokens(ids: Sequence[np.ndarray], columns: int) -> csr_matrix:
    """How often each id occurs in each text: float (texts, columns)."""
    rows = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
    return csr_matrix((np.ones(len(rows)), (rows, np.concatenate(ids))), shape=(len(ids), columns))


def fit_lexical(
    tokenizer: PreTrainedTokenizerBase, vectors: np.ndarray, rows: datasets.Dataset, num_labels: int
) -> LexicalTable:
    """Fit a linear support vector machine (one for each label), or of numbers a ridge regression, as a table.

    Texts of `rows` (of a pair both texts, their words counted alike) are cut to the tokenizer's `model_max_length`.
    `vectors` is float (tokens, size). A class without texts keeps the logit -1.
    """
    ids = [np.array(row) for row in tokenizer(texts_of(rows), truncation=True)["input_ids"]]
    words = len(vectors)
    counts = count_tokens([row[~np.isin(row, tokenizer.all_special_ids)] for row in ids], words)
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(range(words))]  # a table may have more rows
    continues = torch.tensor([float(token.startswith("##")) for token in tokens])
    pairs = count_tokens([hash_pairs(row, BUCKETS) for row in ids], BUCKETS)
    whole = count_tokens([_long_words(row, continues) for row in ids], BUCKETS)
    whole_idf = TfidfTransformer().fit(whole).idf_
    weighting = TfidfTransformer(sublinear_tf=True, norm=None).fit(counts)
    idf = weighting.idf_.copy()
    idf[tokenizer.all_special_ids] = 0
    weighted = weighting.transform(counts)
    per_length = diags(1 / np.maximum(norm(weighted, axis=1), 1))
    shares = per_length @ weighted @ diags(1 / weighting.idf_)  # the blocks below have the idf, 0 for special tokens

    # What a token has: itself, its letters, its vector. A text is the sum of what its tokens have.
    spellings = [each[2:] if each.startswith("##") else f" {each}" for each in tokens]
    letters = CountVectorizer(analyzer="char", ngram_range=(2, 4), lowercase=False).fit_transform(spellings)
    letters = diags((idf > 0).astype(float)) @ letters  # special tokens have none
    letters = letters @ diags(TfidfTransformer().fit(counts @ letters).idf_)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    blocks = [diags(idf), letters, csr_matrix(diags(idf) @ units)]
    blocks = [block * _scale(shares @ block) for block in blocks]
    hashed = [diags(np.ones(BUCKETS)), diags(whole_idf)]
    counted = zip((pairs, whole), hashed, strict=True)
    hashed = [block * _scale(per_length @ each @ block) for each, block in counted]
    of_buckets = block_diag(hashed)
    features = hstack([*(shares @ block for block in blocks), per_length @ hstack([pairs, whole]) @ of_buckets]).tocsr()

    labels = labels_of(rows)
    weights, biases, classes = _fit(features, labels)
    size = features.shape[1] - 2 * BUCKETS
    table = LexicalTable(words, BUCKETS, num_labels)
    table.weight.zero_()
    table.bias.fill_(-1)
    if labels.ndim == 2:
        table.bias[labels.min(axis=0) == 1] = 1  # a label of every text
    folded = np.concatenate([hstack(blocks) @ weights[:, :size].T, of_buckets @ weights[:, size:].T])
    table.weight[:, classes] = torch.from_numpy(folded).float()
    table.bias[classes] = torch.from_numpy(biases).float()
    table.idf.copy_(torch.from_numpy(idf))
    table.continues.copy_(continues)
    return table


def _long_words(ids: np.ndarray, continues: Tensor) -> np.ndarray:
    """Buckets (words,) of a text's words of several tokens."""
    row = torch.from_numpy(ids)[None]
    buckets, starts = hash_words(row, continues[row], BUCKETS)
    return buckets[starts > 0].numpy()


def _fit(features: csr_matrix, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (k, features), biases (k,), and the classes that they are of (k,)."""
    svm = LinearSVC(C=STRENGTH, tol=0.01, random_state=0)
    if labels.ndim == 2:
        classes = np.flatnonzero((labels.min(axis=0) == 0) & (labels.max(axis=0) == 1))  # others are not told apart
        fitted = [clone(svm).fit(features, labels[:, each]) for each in classes]
        weights = np.array([each.coef_[0] for each in fitted]).reshape(-1, features.shape[1])
        return weights, np.array([each.intercept_[0] for each in fitted]), classes
    if labels.dtype.kind == "f":  # numbers
        ridge = Ridge(alpha=RIDGE, solver="sparse_cg", tol=1e-3).fit(features, labels)
        return ridge.coef_[None], np.array([ridge.intercept_]), np.zeros(1, dtype=int)
    svm.fit(features, labels)
    # Of two classes scikit-learn has one row, for the second: the first gets its negative.
    signs = np.array([-1, 1])[:, None] if len(svm.coef_) == 1 else np.ones((len(svm.coef_), 1))
    return signs * svm.coef_, signs[:, 0] * svm.intercept_, svm.classes_


def _scale(features: csr_matrix) -> float:
    """Factor of a block of features: they get a root mean square length of the root of the share that texts share."""
    squares, known = csr_matrix(features.multiply(features)), csr_matrix(features != 0)
    of_column, texts = squares.sum(axis=0).A1, known.sum(axis=0).A1
    total = of_column.sum()
    return float(np.sqrt(of_column[texts > 1].sum() * features.shape[0]) / total) if total else 0.0


@torch.inference_mode()
def lexical_logits(
    table: LexicalTable, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Any], batch_size: int = 64
) -> np.ndarray:
    """Logits of a table, float32 (texts, classes)."""
    parts = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(list(texts[start : start + batch_size]), padding=True, truncation=True, return_tensors="pt")
        parts.append(table(batch["input_ids"], batch["attention_mask"]).numpy())
    return np.concatenate(parts)


def weigh(
    members: np.ndarray,
    lexical: np.ndarray,
    labels: np.ndarray,
    combination: str,
    problem_type: str = SINGLE,
    start: tuple[float, float] = OF_TEXTS,
) -> tuple[float, float, float]:
    """Factors of the members' logits (texts, members, classes) and of the table's (texts, classes), and an offset.

    They minimise the negative log-likelihood of validation labels, the factors near `start` where that says little. The
    offset is 0 but for several labels a text, whose logits count by themselves (Platt, 1999). In a regression the
    factors sum to 1 and minimise the squared error.
    """
    if problem_type == REGRESSION:
        apart, error = members.mean(axis=1)[:, 0] - lexical[:, 0], labels - lexical[:, 0]
        best = float(np.clip(apart @ error / max(apart @ apart, 1e-12), LEAST_SHARE, 1))
        return best, 1 - best, 0.0
    rows, first = np.arange(len(labels)), np.log(start)

    def cost(values: np.ndarray) -> float:
        share, scale = np.exp(values[:2]).astype(np.float32)
        joined = torch.from_numpy(share * members + scale * lexical[:, None] + np.float32(values[2:].sum()))
        logits = combine(joined, combination, problem_type=problem_type).numpy()
        if problem_type == MULTI:
            loss = (np.logaddexp(0, logits) - labels * logits).sum()
        else:
            loss = -log_softmax(logits, axis=-1)[rows, labels].sum()
        return float(TRUST * ((values[:2] - first) ** 2).sum() + loss)

    begin = np.append(first, 0) if problem_type == MULTI else first
    simplex = np.vstack([begin, begin + np.eye(len(begin))])  # its own would hardly move what starts at 0
    found = minimize(cost, begin, method="Nelder-Mead", options={"initial_simplex": simplex}).x
    share, scale = np.exp(found[:2])
    return float(share), float(scale), float(found[2:].sum())


@torch.no_grad()
def add_table(
    committee: CommitteeForSequenceClassification, table: LexicalTable, factors: tuple[float, ...], max_tokens: int
) -> None:
    """Change a committee and a table in place, by the factors and the offset of `weigh`.

    The table reads `max_tokens` of a text.
    """
    share, scale, offset = factors
    table.weight.mul_(scale)
    table.bias.mul_(scale).add_(offset)
    committee.lexical, committee.config.lexical_buckets = table, BUCKETS
    committee.config.member_weight, committee.config.max_tokens = share, max_tokens
