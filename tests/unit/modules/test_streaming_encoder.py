"""The streaming encoder: one result however a stream comes, pads that change nothing, a state that does not grow."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules.memories.bank import BankMemory
from fairseq_infformer.modules.memories.continuous import ContinuousLongTermMemory, ContinuousSettings
from fairseq_infformer.modules.settings import SettingError
from fairseq_infformer.modules.state import named_tensors
from fairseq_infformer.modules.streaming_encoder import StreamingEncoder
from fairseq_infformer.modules.subsampling import STRIDE

FEATURES, DIM, HEADS, SEGMENT = 5, 8, 2, 16


def build(right_context: int = 8, left_context: int = 8, memory: str = "bank", **settings) -> StreamingEncoder:
    def build_memory(layer: int):
        if memory == "continuous":
            small = ContinuousSettings(basis=8, widths=(0.1, 0.2), samples=16)
            return ContinuousLongTermMemory.build(small, DIM, HEADS, layer)
        return BankMemory(DIM, HEADS, length=3) if memory == "bank" else None

    torch.manual_seed(0)
    sizes = {"segment_size": SEGMENT, "left_context": left_context, "right_context": right_context} | settings
    encoder = StreamingEncoder(FEATURES, DIM, HEADS, 16, 2, build_memory=build_memory, **sizes)
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.xavier_uniform_(parameter)
    return encoder.eval()


def speech(rows: int, frames: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, frames, FEATURES, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def streamed(encoder: StreamingEncoder, frames: Tensor, steps: list[int]) -> Tensor:
    """The states of one stream that comes in parts of these lengths: a segment is encoded as soon as it can be."""
    state, waiting, out = encoder.initial_state(1, frames), frames[:, :0], []
    need = encoder.segment_size + encoder.right_context
    for part in frames.split(steps, dim=1):
        waiting = torch.cat([waiting, part], dim=1)
        while waiting.shape[1] >= need:
            encoded, state = encoder.encode_segment(waiting[:, :need], torch.tensor([need]), state)
            out.append(encoded.states[:, : encoded.lengths])
            waiting = waiting[:, encoder.segment_size :]
    while waiting.shape[1]:
        encoded, state = encoder.encode_segment(waiting[:, :need], torch.tensor([min(need, waiting.shape[1])]), state)
        out.append(encoded.states[:, : encoded.lengths])
        waiting = waiting[:, encoder.segment_size :]
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("memory", ["bank", "continuous", "none"])
@pytest.mark.parametrize(("left", "right"), [(8, 8), (8, 0), (0, 4)])
@pytest.mark.parametrize("frames", [96, 83])
def test_encode_segment_by_segment_equals_at_once(memory, left, right, frames):
    encoder, x = build(right, left, memory), speech(1, frames)
    with torch.no_grad():
        whole = encoder(x, torch.tensor([frames]))
    assert whole.states.shape[1] == int(whole.lengths) == -(-frames // STRIDE)
    parts = streamed(encoder, x, [7, frames - 30, 1, 22])
    torch.testing.assert_close(parts, whole.states, rtol=0, atol=1e-5)


@pytest.mark.parametrize("memory", ["bank", "continuous"])
def test_forward_ignores_pads(memory):
    """Rows of a batch, whatever is in their pads, have the states of each row alone, and the right lengths."""
    encoder, lengths = build(memory=memory), torch.tensor([75, 42, 17, 3, 48])
    x = speech(5, 75)
    pads = torch.arange(75) >= lengths[:, None]
    with torch.no_grad():
        together = encoder(x.masked_fill(pads[:, :, None], 0), lengths)
        other = encoder(torch.where(pads[:, :, None], 1e3, x), lengths)
        assert together.lengths.tolist() == other.lengths.tolist() == [19, 11, 5, 1, 12]
        for row, length in enumerate(lengths.tolist()):
            alone = encoder(x[row : row + 1, :length], lengths[row : row + 1]).states[0]
            for batch in (together, other):
                torch.testing.assert_close(batch.states[row, : batch.lengths[row]], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("right", [0, 8])
def test_states_depend_on_no_frame_after_the_right_context(right):
    encoder = build(right)
    x = speech(1, 64).requires_grad_()
    encoder(x, torch.tensor([64])).states[0, : SEGMENT // STRIDE].square().sum().backward()
    seen = x.grad[0].abs().sum(1) > 0
    assert seen[:SEGMENT].all() and not seen[SEGMENT + right :].any()
    assert bool(seen[SEGMENT : SEGMENT + right].all())


def test_state_is_constant_however_long_the_speech():
    """Bytes of the whole state, and of what its tensors keep alive, as of the third segment and of the last."""
    encoder = build()
    state, need = encoder.initial_state(1, speech(1, 1)), SEGMENT + 8
    x, sizes = speech(1, need), []
    with torch.no_grad():
        for _ in range(80):
            _, state = encoder.encode_segment(x, torch.tensor([need]), state)
            tensors = [state.frames, *(t for memory in state.memories for t in named_tensors(memory).values())]
            sizes.append((sum(t.nbytes for t in tensors), sum(t.untyped_storage().nbytes() for t in tensors)))
    assert len(set(sizes[4:])) == 1


def test_forward_passes_gradients_through_the_bank():
    """What the last segment makes of the first, which its context does not reach, trains every parameter."""
    encoder, x = build(0, 0), speech(1, 3 * SEGMENT).requires_grad_()
    encoder(x, torch.tensor([3 * SEGMENT])).states[0, -1].square().sum().backward()
    assert bool(x.grad[0, :SEGMENT].any())
    assert not [name for name, parameter in encoder.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"segment_size": 0}, "segment_size must be 4 or more and a multiple of 4, the frames per state; got 0"),
        ({"segment_size": 2}, "segment_size must be 4 or more and a multiple of 4, the frames per state; got 2"),
        ({"left_context": 6}, "left_context must be 0 or more and a multiple of 4, the frames per state; got 6"),
        ({"right_context": -4}, "right_context must be 0 or more and a multiple of 4, the frames per state; got -4"),
    ],
)
def test_encoder_refuses_sizes(settings, message):
    with pytest.raises(SettingError, match=message):
        build(**settings)
