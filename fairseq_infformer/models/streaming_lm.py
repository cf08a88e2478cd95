"""What the language models have in common: a streaming decoder, and checkpoints that keep its memory."""

import textwrap

from fairseq.data import Dictionary
from fairseq.models import FairseqLanguageModel
from torch import Tensor

from fairseq_infformer.errors import InputError

from .memory_format import MEMORY_FORMAT
from .prompted_lm import PromptedLM
from .streaming_decoder import StreamingDecoder, dictionary_checksum


class StreamingLanguageModel(FairseqLanguageModel):
    """A language model with a ``StreamingDecoder``."""

    decoder: StreamingDecoder
    memory_format = MEMORY_FORMAT

    def memory_state(self) -> dict[str, Tensor]:
        """The memory of training after its last segment, see ``StreamingDecoder.memory_state``."""
        return self.decoder.memory_state()

    def load_memory_state(self, memory: dict[str, Tensor], number: int = MEMORY_FORMAT) -> None:
        """Let training continue from what ``memory_state`` returned, in the format of this number."""
        self.decoder.load_memory_state(memory, number)

    def prompted(self, segment: int) -> PromptedLM:
        """Itself, as fairseq's generators take a model, which reads prompts in segments of this many tokens."""
        return PromptedLM(self, segment)

    def load_state_dict(self, state_dict, strict=True, model_cfg=None, args=None):
        check_dictionary(state_dict, self.decoder.dictionary)
        try:
            return super().load_state_dict(state_dict, strict, model_cfg, args)
        except ValueError as error:  # the basis differs
            raise InputError(str(error)) from error
        except Exception as error:  # PyTorch lists the differences line by line
            reason = textwrap.shorten(str(error).split("\n", 1)[-1], 160, placeholder=" …")
            raise InputError(
                f"the checkpoint belongs to another model ({reason}); give the --arch and sizes it was trained with"
            ) from error


def check_dictionary(state_dict: dict[str, Tensor], dictionary: Dictionary) -> None:
    """InputError if a model's state was trained with another dictionary."""
    saved = state_dict.get("decoder.dictionary_checksum")
    if saved is not None and int(saved) != dictionary_checksum(dictionary):
        raise InputError(
            f"the data's dict.txt ({len(dictionary)} types) is not the one that the checkpoint was trained with; "
            "prepare the data with the dictionary of the training data (prepare.sh --dict)"
        )
