"""Translation whose model's architecture is searched for: first-order DARTS (Liu et al. 2019), as in DARTSformer."""

import json
import logging
from dataclasses import dataclass
from typing import Any, Optional

import torch.distributed as dist
from fairseq.data import FairseqDataset, data_utils, iterators
from fairseq.models import BaseFairseqModel
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import II

from fairseq_infformer.data.halves import ARCHITECTURE, TurnAbout, half_of
from fairseq_infformer.errors import InputError

logger = logging.getLogger(__name__)


@dataclass
class TranslationSearchConfig(TranslationConfig):
    update_freq: Any = II("optimization.update_freq")  # noqa: RUF009 (a name, which is looked up later)
    log_interval: int = II("common.log_interval")


@register_task("translation_search", dataclass=TranslationSearchConfig)
class TranslationSearchTask(TranslationTask):
    """Trains weights on the pairs of even number and the architecture on those of odd number, one update each in turn.

    It needs ``--optimizer search_adam``, which leaves alone what has no gradient in an update.
    """

    cfg: TranslationSearchConfig
    model: Optional[BaseFairseqModel] = None

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> BaseFairseqModel:
        self.model = super().build_model(cfg, from_checkpoint)
        return self.model

    def get_batch_iterator(self, dataset: FairseqDataset, *args: Any, **kwargs: Any) -> iterators.EpochBatchIterating:
        """As fairseq's, but the training pairs come in turn from two halves."""
        if dataset is not self.datasets.get(self.cfg.train_subset):
            return super().get_batch_iterator(dataset, *args, **kwargs)
        return self._in_turn(dataset, *args, **kwargs)

    def _in_turn(
        self,
        dataset: FairseqDataset,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        max_positions: Any = None,
        ignore_invalid_inputs: bool = False,
        *,
        required_batch_size_multiple: int = 1,
        seed: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        **unused: Any,
    ) -> iterators.EpochBatchIterator:
        with data_utils.numpy_seed(seed):
            pairs = dataset.ordered_indices()
        if max_positions is not None:
            pairs = self.filter_indices_by_size(pairs, dataset, max_positions, ignore_invalid_inputs)
        sampler = TurnAbout(
            lambda half: dataset.batch_by_size(half, max_tokens, max_sentences, required_batch_size_multiple),
            pairs,
            self.cfg.update_freq,
            num_shards,
            seed,
        )
        counts = [len(half) for half in sampler.halves]
        if min(counts) < (needed := num_shards * max(self.cfg.update_freq)):
            raise InputError(
                f"a search trains on two halves of the training pairs, of {counts[0]} and {counts[1]} batches, but an "
                f"update needs {needed} of each; give smaller batches or more pairs"
            )
        return iterators.EpochBatchIterator(
            dataset=dataset,
            collate_fn=dataset.collater,
            batch_sampler=sampler,
            seed=seed,
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
            disable_shuffling=True,  # the sampler does it
        )

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple:
        """Forward and backward pass; gradients are left of the weights or of the architecture, as the pairs say."""
        result = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        searching = half_of(int(sample["id"][0])) == ARCHITECTURE
        for parameter in model.parameters():
            if (getattr(parameter, "param_group", None) == "architecture") != searching:
                parameter.grad = None
        return result

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Update, and log the weights of all operations now and then."""
        super().optimizer_step(optimizer, model, update_num)
        first = not dist.is_initialized() or dist.get_rank() == 0
        if first and (update_num + 1) % self.cfg.log_interval == 0:
            weights = {"num_updates": update_num + 1} | self.model.operation_weights()
            logger.info(f"alpha | {json.dumps(weights)}")
