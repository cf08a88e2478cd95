"""A model as fairseq's ``SequenceGenerator`` takes one, for beam search and sampling after prompts of any length."""

from typing import TYPE_CHECKING, Any, Optional

import torch
from fairseq.models import FairseqIncrementalDecoder, FairseqLanguageModel
from torch import Tensor

from .text_stream import Stream

if TYPE_CHECKING:
    from .streaming_lm import StreamingLanguageModel

STREAM = "stream"


class PromptedDecoder(FairseqIncrementalDecoder):
    """Continues the texts of a stream. The first column of a generator's tokens stands for what the stream has read."""

    def __init__(self, model: "StreamingLanguageModel") -> None:
        super().__init__(model.decoder.dictionary)
        self.model = model
        self.prompts: Optional[Stream] = None

    def forward(
        self, tokens: Tensor, encoder_out: None = None, incremental_state: Optional[dict] = None, **unused: Any
    ) -> tuple[Tensor, dict[str, None]]:
        """Log-probabilities (B · beam, 1, V) of the next word, of the dictionary's V.

        Args:
            tokens: (B · beam, t), of which the last one is new. incremental_state: of the beams; has their streams.
        """
        if STREAM not in incremental_state:
            prompts = len(self.prompts.in_segment)
            stream = self.prompts.copy()
            stream.reorder(torch.arange(prompts).repeat_interleave(len(tokens) // prompts))
            incremental_state[STREAM] = stream
        else:
            incremental_state[STREAM].read(tokens[:, -1:])
        log_probs = self.model.decoder.with_end(incremental_state[STREAM].log_probs())
        return log_probs[:, None], {"attn": None}

    def reorder_incremental_state(self, incremental_state: dict, new_order: Tensor) -> None:
        """Let the memories follow the beams."""
        incremental_state[STREAM].reorder(new_order)

    def get_normalized_probs(self, net_output: tuple, log_probs: bool, sample: Optional[dict] = None) -> Tensor:
        """Probabilities (…, V) of what ``forward`` gave, which the generator has divided by a temperature."""
        scores = net_output[0].float()
        return scores.log_softmax(-1) if log_probs else scores.softmax(-1)

    def max_positions(self) -> int:
        """Of texts: any length."""
        return 2**31 - 1


class PromptedLM(FairseqLanguageModel):
    """A model that continues prompts under fairseq's ``SequenceGenerator``.

        prompted = PromptedLM(model, segment=512)
        generator = SequenceGenerator([prompted], dictionary, beam_size=5)
        prompted.read(prompts, lengths)
        generator.generate([prompted], {"net_input": {"src_tokens": prompts}})

    ``</s>`` ends a hypothesis: a line, or the text of a pretrained model.

    Args:
        model: in evaluation mode. segment: tokens per segment, as in training.
    """

    decoder: PromptedDecoder

    def __init__(self, model: "StreamingLanguageModel", segment: int) -> None:
        super().__init__(PromptedDecoder(model))
        self.segment = segment

    def read(self, prompts: Tensor, lengths: Tensor) -> None:
        """Read new prompts, the first ``lengths`` (B,) of the tokens (B, T) of each row, of any number."""
        stream = Stream(self.decoder.model, self.segment, rows=len(prompts))
        stream.read(prompts, lengths)
        self.decoder.prompts = stream
