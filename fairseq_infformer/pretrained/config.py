"""The configuration of a pretrained model with a memory, as its config.json has it, and what is wrong with one."""

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any, ClassVar, Optional

from transformers import AutoConfig, PreTrainedConfig

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.modules.memories import MEMORIES, LongTermMemory, SettingError


class InfformerConfig(PreTrainedConfig):
    """A pretrained model's own configuration, and that of its memory.

    Args:
        text_config: of the model without memory, or its values.
        memory: a registered name, or "none" for segments and window alone.
        memory_settings: of that memory, by name; those left out have their defaults.
        layers: the numbers, from 0, of the layers with a memory; None: all.
        segment: tokens that are read before they move into the window.
        window: tokens before the segment that attention sees; None: as many as the segment, and none where positions
            are learned.
        sinks: how many of the first tokens of a text attention still sees when they have left the window; none where
            there is no window.
        bptt_segments: segments that gradients reach through.
    """

    model_type = "infformer"
    sub_configs: ClassVar = {"text_config": AutoConfig}
    has_no_defaults_at_init = True

    def __init__(
        self,
        text_config: Optional[PreTrainedConfig | dict[str, Any]] = None,
        memory: str = "continuous",
        *,
        memory_settings: Optional[dict[str, Any]] = None,
        layers: Optional[Iterable[int]] = None,
        segment: int = 256,
        window: Optional[int] = None,
        sinks: int = 4,
        bptt_segments: int = 1,
        **kwargs: Any,
    ) -> None:
        self.text_config = AutoConfig.for_model(**text_config) if isinstance(text_config, dict) else text_config
        self.memory, self.memory_settings = memory, dict(memory_settings or {})
        self.layers = list(layers) if isinstance(layers, Iterable) else layers
        self.segment, self.window, self.sinks, self.bptt_segments = segment, window, sinks, bptt_segments
        super().__init__(**kwargs)

    @property
    def start_token(self) -> Optional[int]:
        """The token that the model's own texts start with; None if its configuration has none."""
        tokens = (self.text_config.bos_token_id, self.text_config.eos_token_id)
        return next((token for token in tokens if isinstance(token, int)), None)

    def settle(self, learned_positions: bool) -> None:
        """Fill in what depends on the model; InputError names a wrong value.

        Args:
            learned_positions: whether the model adds an embedding for each position.
        """
        for name, least in (("segment", 1), ("window", 0), ("sinks", 0), ("bptt_segments", 1)):
            value = getattr(self, name)
            absent = name == "window" and value is None
            if not (absent or (type(value) is int and value >= least)):
                raise InputError(f"{name} must be a whole number, {least} or more, got {value!r}")
        numbers = range(self.text_config.num_hidden_layers)
        if self.memory == "none":
            self.layers = []
        elif self.layers is None:
            self.layers = list(numbers)
        elif not (isinstance(self.layers, list) and all(layer in numbers for layer in self.layers)):
            raise InputError(f"layers must be numbers in 0..{numbers[-1]}, got {self.layers!r}")
        if learned_positions and self.window:
            raise InputError(
                f"window must be 0, got {self.window}: the model's positions are learned and start over with a segment"
            )
        if self.window is None:
            self.window = 0 if learned_positions else self.segment
        if self.window == 0:
            self.sinks = 0
        self._check_reach("max_position_embeddings", "positions")
        self._check_reach("sliding_window", "tokens in its sliding window")

    def _check_reach(self, name: str, meaning: str) -> None:
        limit, parts = getattr(self.text_config, name, None), (self.segment, self.window, self.sinks)
        if limit is not None and sum(parts) > limit:
            raise InputError(
                f"segment + window + sinks must be at most {limit}, got {' + '.join(map(str, parts))}: the model has "
                f"{limit} {meaning} ({name})"
            )

    def build_memory(self, layer: int, num_heads: int, head_dim: int) -> LongTermMemory:
        """The memory of the layer of this number, with the heads of its attention; InputError names a wrong setting."""
        if self.memory not in MEMORIES:
            raise InputError(f"memory must be one of none, {', '.join(MEMORIES)}, got {self.memory!r}")
        registered = MEMORIES[self.memory]
        known = [field.name for field in dataclasses.fields(registered.settings)]
        for name in self.memory_settings:
            if name not in known:
                raise InputError(f"the memory {self.memory} has no setting {name!r}; it has {', '.join(known)}")
        # JSON has lists for tuples.
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in self.memory_settings.items()}
        dim, more = self.text_config.hidden_size, {}
        if num_heads * head_dim != dim:
            if "head_dim" not in inspect.signature(registered.memory.build).parameters:
                raise InputError(
                    f"memory must be another one, got {self.memory!r}: it divides the {dim} channels of hidden states "
                    f"among its heads, but the model has {num_heads} heads of width {head_dim}"
                )
            more["head_dim"] = head_dim
        try:
            return registered.memory.build(registered.settings(**values), dim, num_heads, layer, **more)
        except SettingError as error:
            raise InputError(str(error)) from error
        except TypeError as error:
            raise InputError(
                f"a setting of the memory {self.memory} has a value of the wrong type ({one_line(error)}), got "
                f"{', '.join(f'{name}={value!r}' for name, value in values.items())}"
            ) from error
