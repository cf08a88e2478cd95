"""A long-term memory for pretrained language models of ``transformers``; importing this lets it load saved ones."""

import importlib.util

if importlib.util.find_spec("transformers") is None:
    raise ModuleNotFoundError("fairseq_infformer.pretrained needs transformers; install it with: pip install '.[hf]'")

from transformers import AutoConfig, AutoModelForCausalLM

from .attach import attach
from .cache import StreamCache
from .config import InfformerConfig
from .memory import GatedMemory
from .model import InfformerForCausalLM

AutoConfig.register(InfformerConfig.model_type, InfformerConfig)
AutoModelForCausalLM.register(InfformerConfig, InfformerForCausalLM)

__all__ = ["GatedMemory", "InfformerConfig", "InfformerForCausalLM", "StreamCache", "attach"]
