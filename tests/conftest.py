"""What the tests share: a tiny tokenizer, pairs of (ours, stock BERT) on the same weights, a Python without it.

The oracle of most tests is a stock BERT with every weight at random, LayerNorms too: its state is loaded into ours.
"""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import pytest
import torch
import transformers

import tlm_hf
from tlm_hf.data.tokenization import train_wordpiece
from tlm_hf.errors import UserError
from tlm_hf.evaluation import latency

torch.set_num_threads(1)
latency.LEAST_SECONDS = 1e-5  # no test needs an exact time
os.fsync = lambda descriptor: None  # a killed process loses nothing that it has written
hypothesis.settings.register_profile(
    "tests", deadline=None, max_examples=8, derandomize=True, database=None, print_blob=False
)
hypothesis.settings.load_profile("tests")

ROOT = Path(__file__).resolve().parent.parent
CLASSES = {
    "encoder": (tlm_hf.TLMModel, transformers.BertModel),
    "masked_lm": (tlm_hf.TLMForMaskedLM, transformers.BertForMaskedLM),
    "classifier": (tlm_hf.TLMForSequenceClassification, transformers.BertForSequenceClassification),
}
TINY = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}
SENTENCES = [
    "the river runs past the old mill and the new bridge",
    "a small boat crosses the river in the morning",
    "the miller counts the bags of flour in the mill",
    "children play by the bridge until the evening",
    "in the evening the boat comes back to the old bridge",
    "the teacher reads a story about a small boat",
    "a story about the river makes the children laugh",
    "the new teacher counts the children in the morning",
    "bread is made of flour, water and a little salt",
    "the baker buys flour from the miller and salt from the boat",
    "salt and water make the bread taste of the river",
    "the old baker reads in the evening, the children play",
]

BLOCKER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tlm_hf":
            raise ModuleNotFoundError(f"No module named {name!r}: blocked by the test")

sys.meta_path.insert(0, Blocked())
try:
    import tlm_hf
    raise SystemExit("the package can be imported, so this process proves nothing")
except ModuleNotFoundError:
    pass
"""


def pytest_collection_finish() -> None:
    """Every training ends with `gc.collect()`, which takes half a second unless what is imported is left out of it."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def shared_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache of the embedded corpus, which takes a minute to read; one that is given (TLM_CACHE) lasts longer.

    TLM_TESTS is a folder of this run of the tests, of all its processes.
    """
    root = tmp_path_factory.getbasetemp()
    os.environ.setdefault("TLM_TESTS", str(root.parent if "PYTEST_XDIST_WORKER" in os.environ else root))
    return Path(os.environ.setdefault("TLM_CACHE", f"{os.environ['TLM_TESTS']}/cache"))


def randomise(model: torch.nn.Module, seed: int, scale: float = 0.2) -> None:
    """Draw every parameter anew: normal(0, scale), LayerNorm and BatchNorm weights normal(1, scale)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = name.endswith(("LayerNorm.weight", "batch_norm.weight"))
            parameter.normal_(1.0 if is_norm else 0.0, scale, generator=generator)
            if name.endswith("word_embeddings.weight"):
                parameter[0] = 0.0


@pytest.fixture(scope="session")
def build_pair() -> Callable[..., tuple[Any, Any]]:
    """Function `(kind, seed, **config fields)` to (ours, stock BERT) in evaluation mode with the same weights."""

    def build(kind: str, seed: int = 0, attention: str = "sdpa", fast: bool = True, **fields: Any) -> tuple[Any, Any]:
        ours_class, stock_class = CLASSES[kind]
        fields = {**TINY, **fields}
        stock = stock_class(transformers.BertConfig(**fields, attn_implementation=attention))
        randomise(stock, seed)
        config = tlm_hf.TLMConfig(**fields, use_fast_path=fast, attn_implementation=attention)
        ours = ours_class(config)
        ours.load_state_dict(stock.state_dict(), strict=True)
        return ours.eval(), stock.eval()

    return build


@pytest.fixture(scope="session")
def tokenizer() -> transformers.PreTrainedTokenizerBase:
    """A WordPiece tokenizer trained on `SENTENCES`, at most 16 tokens a text."""
    return train_wordpiece(SENTENCES * 2, vocab_size=120, max_length=16)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """The sentences that the tokenizer was trained on."""
    return list(SENTENCES)


def check_sentence(error: object) -> str:
    """Assert a message to be one line that ends like a sentence; returns it."""
    message = str(error)
    assert message.strip()
    assert "\n" not in message.strip(), message
    assert message.rstrip().endswith((".", ")")), message
    return message


def refusal(function: Callable[..., Any], *arguments: Any, error: type[Exception] = UserError, **options: Any) -> str:
    """The sentence with which a call refuses what it is given."""
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    assert type(caught.value) is error
    return check_sentence(caught.value)
