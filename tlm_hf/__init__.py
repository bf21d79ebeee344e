"""Tiny language models for the Hugging Face Hub: small encoders, and soft committees of them.

Importing the package registers the classes with transformers' Auto classes, so that convolution encoders (`"tlm"`) and
committees (`"tlm_committee"`) open through `AutoModel...from_pretrained`; encoders without convolution are stock BERTs
and open without this package.
"""

from importlib.metadata import PackageNotFoundError, version

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from .errors import UserError
from .models.configuration_committee import CommitteeConfig
from .models.configuration_tlm import TLMConfig
from .models.modeling_committee import (
    CommitteeForMaskedLM,
    CommitteeForSequenceClassification,
    CommitteeModel,
    CommitteeOutput,
)
from .models.modeling_tlm import TLMForMaskedLM, TLMForSequenceClassification, TLMModel

try:
    __version__ = version("tlm-hf")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"

AutoConfig.register(TLMConfig.model_type, TLMConfig, exist_ok=True)
AutoConfig.register(CommitteeConfig.model_type, CommitteeConfig, exist_ok=True)
AutoModel.register(TLMConfig, TLMModel, exist_ok=True)
AutoModel.register(CommitteeConfig, CommitteeModel, exist_ok=True)
AutoModelForMaskedLM.register(TLMConfig, TLMForMaskedLM, exist_ok=True)
AutoModelForMaskedLM.register(CommitteeConfig, CommitteeForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(TLMConfig, TLMForSequenceClassification, exist_ok=True)
AutoModelForSequenceClassification.register(CommitteeConfig, CommitteeForSequenceClassification, exist_ok=True)

__all__ = [
    "CommitteeConfig",
    "CommitteeForSequenceClassification",
    "CommitteeOutput",
    "TLMConfig",
    "TLMForMaskedLM",
    "TLMForSequenceClassification",
    "TLMModel",
    "UserError",
]
