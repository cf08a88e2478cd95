"""The project's own language models for ``transformers``; importing this lets it load what ``infformer-export`` wrote.

    import fairseq_infformer.hf
    model = AutoModelForCausalLM.from_pretrained("exported")

A text begins with the dictionary's ``</s>``, as in training. Every call reads its texts from their start, and
keeps nothing for the next one.
"""

import shutil
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import can_return_tuple

from .errors import InputError
from .models import export_format
from .models.infinite_former_lm import InfiniteFormerLM
from .vocabulary_files import DICTIONARY, SPELLINGS


class ExportedConfig(PreTrainedConfig):
    """What config.json of an exported model has: its settings, and the task's."""

    model_type = export_format.MODEL_TYPE
    has_no_defaults_at_init = True


class ExportedForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model of this project, segment by segment from an empty memory.

    Args:
        config: of the exported model. model: that model. folder: it is in.
    """

    config_class = ExportedConfig

    def __init__(self, config: ExportedConfig, model: InfiniteFormerLM, folder: Path) -> None:
        dictionary = model.decoder.dictionary
        config.vocab_size, config.pad_token_id = len(dictionary), dictionary.pad()
        config.bos_token_id = config.eos_token_id = dictionary.eos()
        super().__init__(config)
        self.model, self.folder, self.segment = model, folder, config.task["tokens_per_sample"]
        self.generation_config.use_cache = False

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *args: Any, config: Optional[ExportedConfig] = None, **kwargs: Any
    ) -> "ExportedForCausalLM":
        """The model in a folder that ``infformer-export`` wrote, in evaluation mode; InputError if it is damaged.

        Args:
            config: of the folder. kwargs: of ``transformers``; ``dtype`` counts alone.
        """
        model = cls(config or ExportedConfig.from_pretrained(folder), InfiniteFormerLM.from_pretrained(folder), folder)
        dtype = kwargs.get("dtype")
        return model.to(dtype).eval() if isinstance(dtype, torch.dtype) else model.eval()

    def save_pretrained(self, folder: str | Path, **unused: Any) -> None:
        """Write the folder that ``from_pretrained`` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (DICTIONARY, *SPELLINGS):
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        config = {"version": self.config.version, "model": self.config.model, "task": self.config.task}
        export_format.write(folder, config, self.model, self.model.state_dict())

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Optional[Tensor] = None,
        *,
        labels: Optional[Tensor] = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Read texts of any length.

        Args:
            input_ids: (B, T). attention_mask: (B, T), 0 at pads, wherever they are; their logits mean nothing.
            labels: (B, T), -100 where nothing is scored. kwargs: of the loss.
        """
        text = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if text.shape != input_ids.shape:
            raise InputError(f"attention_mask must be {tuple(input_ids.shape)}, got {tuple(text.shape)}")
        # Rows without their pads are cut into segments as if each were alone.
        order = text.bool().logical_not().int().argsort(dim=1, stable=True)
        tokens, lengths = input_ids.gather(1, order), text.bool().sum(1).cpu()
        decoder, features = self.model.decoder, []
        states = decoder.initial_state(len(tokens))
        for start in range(0, tokens.shape[1], self.segment):
            part = tokens[:, start : start + self.segment]
            in_row = (lengths - start).clamp(0, part.shape[1])
            empty = torch.full_like(in_row, start == 0, dtype=torch.bool)
            states, (read, _) = decoder.read_segment(states, (part, in_row, empty))
            states = tuple(state.detach() for state in states)
            features.append(read)
        back = order.argsort(dim=1)[:, :, None]
        read = torch.cat(features, dim=1)
        logits = decoder.output_layer(read.gather(1, back.expand_as(read)))
        if decoder.adaptive_softmax is not None:  # log-probabilities are logits too
            logits = decoder.adaptive_softmax.get_log_prob(logits, None)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Optional[Tensor] = None, **unused: Any
    ) -> dict[str, Optional[Tensor]]:
        """The whole text so far, since there is no cache."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}


AutoConfig.register(ExportedConfig.model_type, ExportedConfig)
AutoModelForCausalLM.register(ExportedConfig, ExportedForCausalLM)
