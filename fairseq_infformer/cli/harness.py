"""``lm_eval``, the LM Evaluation Harness, with the model ``infformer``: a pretrained model with a memory.

Every text is read in one pass, however long it is, with an empty memory at its start. The model ``hf`` of the harness
gives the same figures for such models, but holds the logits of whole texts, and cuts texts at ``max_length``.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Optional

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.pretrained import InfformerForCausalLM, StreamCache

UNBOUNDED = 1 << 40  # tokens
NO_TARGET = -100

Request = tuple[Optional[tuple[str, str]], list[int], list[int]]  # its name, context, continuation


@register_model("infformer")
class InfformerLM(HFLM):
    """A model that ``pretrained.attach`` made, or ``infformer-export --to hf``.

    Args:
        pretrained: its folder, or the model. max_length: tokens at which texts are cut; None: nowhere.
        batch_size: texts that are read together; requests with one context in a batch read it once.
        kwargs: of ``HFLM``.
    """

    def __init__(
        self, pretrained: Any, max_length: Optional[int] = None, batch_size: int | str = 1, **kwargs: Any
    ) -> None:
        if not str(batch_size).isdigit():
            raise InputError(f"--batch_size must be a number for --model infformer, got {batch_size}")
        try:
            super().__init__(pretrained, max_length=max_length or UNBOUNDED, batch_size=int(batch_size), **kwargs)
        except OSError as error:  # of transformers
            raise InputError(
                f"pretrained={pretrained} cannot be read ({one_line(error)}); give a folder that infformer-export --to "
                "hf wrote"
            ) from error
        if not isinstance(self.model, InfformerForCausalLM):
            raise InputError(
                f"--model infformer takes a model with a memory, got a {type(self.model).__name__}; give --model hf"
            )

    @property
    def prefix_token_id(self) -> int:
        """What is read before a text: the token that the model's own texts start with."""
        if self.custom_prefix_token_id is not None:
            return self.custom_prefix_token_id
        start = self.model.config.start_token
        return super().prefix_token_id if start is None else start

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: Optional[int] = None
    ) -> list[tuple[float, bool]]:
        """For each request, the log-likelihood of its continuation, and whether it is the most probable one."""
        # Those of one context are together, and those of about one length.
        order = sorted(range(len(requests)), key=lambda n: (-len(requests[n][1]), requests[n][1], -len(requests[n][2])))
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        size = override_bs or self.batch_size
        for first in tqdm(range(0, len(order), size), disable=disable_tqdm or self.rank != 0, unit="batch"):
            batch = order[first : first + size]
            for number, answer in zip(batch, self._answers([requests[number] for number in batch])):
                answers[number] = answer
                if (name := requests[number][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", name, answer)
        return answers

    @torch.no_grad()
    def _answers(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Of a batch in which requests of one context follow each other."""
        contexts = [
            (context[-max(1, self.max_length + 1 - len(continuation)) :], continuation)
            for _, context, continuation in requests
        ]
        shared = [
            (context, [pair[1] for pair in pairs]) for context, pairs in groupby(contexts, key=lambda pair: pair[0])
        ]
        cache = StreamCache()
        heads, mask = self._padded([context[:-1] for context, _ in shared])
        if mask.any():
            self._read(heads, mask, cache, logits=1)
        cache.reorder_cache(torch.tensor([row for row, (_, several) in enumerate(shared) for _ in several]))

        continuations = [continuation for _, several in shared for continuation in several]
        lasts = [context[-1] for context, several in shared for _ in several]
        tokens, mask = self._padded([[last, *rest[:-1]] for last, rest in zip(lasts, continuations)])
        targets, _ = self._padded(continuations, NO_TARGET)
        total, greedy = torch.zeros(len(requests), device=self.device), torch.ones_like(mask[:, 0])
        segment = self.model.config.segment
        for part in zip(*(each.split(segment, dim=1) for each in (tokens, mask, targets))):
            here, text, wanted = part
            scores = self._read(here, text, cache).float()
            losses = torch.nn.functional.cross_entropy(
                scores.transpose(1, 2), wanted, ignore_index=NO_TARGET, reduction="none"
            )
            total -= losses.sum(1)
            greedy &= ((scores.argmax(-1) == wanted) | (wanted == NO_TARGET)).all(1)
        return list(zip(total.tolist(), greedy.tolist()))

    def _read(self, tokens: Tensor, text: Tensor, cache: StreamCache, logits: int = 0) -> Tensor:
        """Logits of the last ``logits`` columns of tokens (B, T), 0: all; the cache goes along."""
        dtype = self.mixed_precision_dtype
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            return self.model(tokens, attention_mask=text, cache=cache, use_cache=True, logits_to_keep=logits).logits

    def _padded(self, rows: Sequence[list[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
        """Rows of different lengths as (B, T), padded on the right, and the mask (B, T) of what is not a pad."""
        tokens = torch.full((len(rows), max(map(len, rows))), pad)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[number, : len(row)] = True
        return tokens.to(self.device), mask.to(self.device)


def main() -> None:
    """Entry point of ``infformer-lm-eval``."""
    cli_evaluate()
