# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""Configuration of a BERT of few layers, which stock transformers opens unless it has a convolution front-end."""

import re
import sys
from typing import Any

import transformers
from packaging import version

# Oldest transformers release on which these files run: see CONTRIBUTING.md.
if version.parse(transformers.__version__) < version.parse(OLDEST_TRANSFORMERS := "5.10.1"):
    raise ImportError(
        f"This model's code needs transformers >= {OLDEST_TRANSFORMERS}, but {transformers.__version__} is installed: "
        "run `pip install --upgrade transformers`."
    )

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

AUTO_MAP = {  # every class, not only the saved one: a masked-language-model folder must also open as a classifier
    "AutoConfig": "configuration_tlm.TLMConfig",
    "AutoModel": "modeling_tlm.TLMModel",
    "AutoModelForMaskedLM": "modeling_tlm.TLMForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_tlm.TLMForSequenceClassification",
}

STOCK_HEADS = ("ForTokenClassification", "ForQuestionAnswering")  # which we do not have
CONVOLUTION_FIELDS = ("conv_channels", "conv_kernel_sizes", "conv_sees_padding")


@strict
class TLMConfig(PreTrainedConfig):  # trf-ignore: TRF057
    r"""Configuration of `TLMModel` and its heads: stock BERT's fields, by default of the paper's `bert-1`.

    Args:
        intermediate_size: feed-forward width; None (default) means 4 x `hidden_size`.
        initializer_range: standard deviation of new weights; one narrow layer wants about 1/sqrt(hidden_size).
        conv_channels: channels of the convolution front-end; None for none.
        conv_kernel_sizes: one [sequence, hidden] kernel size per convolution layer; None for no front-end.
        conv_sees_padding: the front-end treats padding as text, as the authors' published code did: every input is
            padded to `max_position_embeddings` inside the model, so that batching does not change an output.
        use_fast_path: compute the last layer only where its output is read (equal to rounding; see `modeling_tlm`).
    """

    model_type = "tlm"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 1
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 128
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | int | None = None
    tie_word_embeddings: bool = True
    conv_channels: int | None = None
    conv_kernel_sizes: list[list[int]] | None = None
    conv_sees_padding: bool = False
    use_fast_path: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse shapes that cannot be built; called by `@strict` at construction and before saving."""
        if self.hidden_size % self.num_attention_heads:
            words = f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}"
            raise ValueError(f"{words}: choose a multiple of it.")
        if (self.conv_channels is None) != (not self.conv_kernel_sizes):
            raise ValueError("conv_channels and conv_kernel_sizes go together: set both or neither.")
        for pair in self.conv_kernel_sizes or []:
            if len(pair) != 2 or min(pair) < 1:
                raise ValueError(f"conv_kernel_sizes has {pair}: each layer takes one [sequence, hidden] pair >= 1.")
        if self.conv_sees_padding and (not self.conv_kernel_sizes or self.pad_token_id is None):
            raise ValueError("conv_sees_padding needs a convolution front-end (conv_kernel_sizes) and a pad_token_id.")
        if getattr(self, "is_decoder", False) or getattr(self, "add_cross_attention", False):
            raise ValueError("is_decoder and add_cross_attention are not supported: these models are encoders.")

    @property
    def has_convolution(self) -> bool:
        """Whether there is a convolution front-end before the transformer layers."""
        return bool(self.conv_kernel_sizes)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read `config.json`; a stock BERT's is ours too, so its `model_type` calls for no warning."""
        if auto := sys.modules.get("transformers.models.auto.modeling_auto"):
            for suffix in STOCK_HEADS:
                head = type(f"Stock{suffix}", (StockHead,), {"suffix": suffix})
                getattr(auto, f"AutoModel{suffix}").register(cls, head, exist_ok=True)
        config_dict, unused = super().get_config_dict(*args, **kwargs)
        if config_dict.get("model_type") == "bert":
            config_dict["model_type"] = cls.model_type
        return config_dict, unused

    def to_dict(self) -> dict[str, Any]:
        """All fields; PEFT asks for them before it chooses layers, so this is where it learns of ours."""
        register_with_peft(self.model_type)
        return super().to_dict()

    def to_diff_dict(self) -> dict[str, Any]:
        """Dictionary behind every saved `config.json`: stock BERT's where the encoder is one."""
        saved = super().to_diff_dict()
        saved["auto_map"] = dict(AUTO_MAP)
        if not self.has_convolution:
            saved = {name: value for name, value in saved.items() if name not in CONVOLUTION_FIELDS}
            saved["model_type"] = "bert"
            saved["architectures"] = [re.sub("^TLM", "Bert", name) for name in saved.get("architectures") or []]
        return saved


def register_with_peft(model_type: str) -> None:
    """Let PEFT, where it is imported, put LoRA on the layers that it takes in a stock BERT."""
    if constants := sys.modules.get("peft.utils.constants"):
        mapping = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        mapping.setdefault(model_type, mapping["bert"])


class StockHead:
    """Opens an encoder with a head of stock BERT's; `suffix` is that of the class."""

    suffix = ""

    @classmethod
    def from_pretrained(cls, *args: Any, config: TLMConfig, **kwargs: Any) -> Any:
        """A stock BERT with the encoder's weights; raises ValueError for one with a convolution front-end."""
        if config.has_convolution:
            raise ValueError(f"A convolution front-end has no head {cls.suffix}: take an encoder without one.")
        fields = {key: value for key, value in config.to_dict().items() if key not in ("auto_map", *CONVOLUTION_FIELDS)}
        stock = transformers.BertConfig.from_dict(fields | {"model_type": "bert"})
        return getattr(transformers, f"Bert{cls.suffix}").from_pretrained(*args, config=stock, **kwargs)


TLMConfig.register_for_auto_class("AutoConfig")
