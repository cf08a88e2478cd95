"""One pass, segments and single tokens give the same, for rows of any lengths, in generation too."""

import pytest
import torch

pytest.importorskip("transformers")

from small_pretrained import (
    ARCHITECTURES,
    BANK,
    COMPRESSIVE,
    CONTINUOUS,
    GIBBS,
    HITTERS,
    SEGMENT,
    attached,
    close,
    text,
)
from transformers import DynamicCache

from fairseq_infformer.errors import InputError
from fairseq_infformer.pretrained import StreamCache

MEMORIES = [GIBBS, CONTINUOUS, COMPRESSIVE, BANK, HITTERS, GIBBS | {"sampling": "sticky-quantile"}, {"memory": "none"}]


def in_calls(model, tokens, lengths, mask=None, cache=None):
    """Logits of calls that read so many columns each, with the streams passed on."""
    logits, start, cache = [], 0, cache or StreamCache()
    for length in lengths:
        end = start + length
        part = model(tokens[:, start:end], None if mask is None else mask[:, :end], cache=cache)
        logits.append(part.logits)
        start = end
    return torch.cat(logits, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_token_by_token_equals_one_pass_in_every_architecture(architecture):
    model, tokens = attached(architecture, **GIBBS), text(29, rows=2)
    close(in_calls(model, tokens, [1] * 29), model(tokens).logits)


@torch.no_grad()
@pytest.mark.parametrize("settings", MEMORIES)
@pytest.mark.parametrize("lengths", [[1] * 29, [8, 8, 8, 5], [3, 14, 1, 11], [29]])
def test_forward_in_calls_equals_one_pass(settings, lengths):
    model, tokens = attached(**settings), text(29, rows=2)
    close(in_calls(model, tokens, lengths), model(tokens).logits)


@torch.no_grad()
@pytest.mark.parametrize("settings", MEMORIES)
@pytest.mark.parametrize("lengths", [[40], [13, 27], [17] + [1] * 23])
def test_forward_reads_each_padded_row_as_if_alone(settings, lengths):
    """Left, right, in the middle and not at all; segments end at other columns, and calls lack text of some rows."""
    model, mask = attached(**settings), torch.ones(6, 40, dtype=torch.int64)
    mask[0, :11], mask[1, 29:], mask[2, 5:14], mask[3, 9:], mask[4, :31] = 0, 0, 0, 0, 0
    tokens = text(40, rows=6) * mask
    logits = in_calls(model, tokens, lengths, mask)
    for row, part in enumerate(mask.bool()):
        close(logits[row, part], model(tokens[row, part][None]).logits[0])


@torch.no_grad()
def test_forward_keeps_a_long_ragged_stream_small():
    """Rows that end their segments in turns, 20 segments long: widths must not grow with the text."""
    model, cache = attached(**GIBBS), StreamCache()
    mask = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1]])
    model(text(4, rows=2), mask, cache=cache)
    for token in text(20 * SEGMENT, rows=2).unbind(1):
        model(token[:, None], cache=cache)
    state, near, _ = cache.streams[0]
    kept = state.sinks.lengths + state.window.lengths + state.segment.lengths
    assert state.window.hidden.shape[1] == SEGMENT and state.segment.hidden.shape[1] <= SEGMENT
    assert near.hidden.shape[1] <= 4 + 3 * SEGMENT
    assert state.window.lengths.tolist() == [SEGMENT] * 2
    assert (state.long_term.num_tokens + kept).tolist() == [20 * SEGMENT + read for read in (1, 4)]


@torch.no_grad()
@pytest.mark.parametrize("settings", MEMORIES)
def test_cache_continues_other_rows_after_a_reorder(settings):
    model, tokens, order = attached(**settings), text(40, rows=3), torch.tensor([2, 0, 0])
    cache = model(tokens[:, :21], use_cache=True).cache
    cache.reorder_cache(order)
    later = tokens[:, 21:]
    close(model(later, cache=cache).logits, model(torch.cat([tokens[order, :21], later], 1)).logits[:, 21:])
    cache = model(tokens[:1, :21], use_cache=True).cache
    cache.batch_repeat_interleave(3)
    close(model(later, cache=cache).logits, model(torch.cat([tokens[[0] * 3, :21], later], 1)).logits[:, 21:])


@torch.no_grad()
@pytest.mark.parametrize("settings", MEMORIES)
@pytest.mark.parametrize("read", [3 * SEGMENT, 3 * SEGMENT + 5])
def test_cache_starts_a_new_text_in_rows_that_are_reset(settings, read):
    model, tokens, later = attached(**settings), text(read, rows=3), text(20, rows=3, seed=1)
    cache = model(tokens, use_cache=True).cache
    cache.reset(torch.tensor([False, True, False]))
    logits = model(later, cache=cache).logits
    close(logits[1:2], model(later[1:2]).logits)
    close(logits[::2], model(torch.cat([tokens, later], dim=1)[::2]).logits[:, read:])
    cache.reset()
    close(model(later, cache=cache).logits, model(later).logits)


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
@pytest.mark.parametrize("settings", [GIBBS, COMPRESSIVE])
def test_generate_with_a_cache_equals_generate_without(settings, how):
    """Across the ends of segments; each row of a padded batch equals the row alone."""
    model, tokens = attached(**settings), text(21, rows=2)
    mask = torch.ones_like(tokens)
    mask[1, :6] = 0
    arguments = {"max_new_tokens": 2 * SEGMENT, "do_sample": False, "pad_token_id": 0, **how}
    generated = model.generate(tokens, attention_mask=mask, **arguments)
    assert generated.equal(model.generate(tokens, attention_mask=mask, use_cache=False, **arguments))
    alone = model.generate(tokens[1:, 6:], **arguments)
    assert alone.equal(generated[len(generated) // 2 :, 6:])


def test_generate_samples_and_continues_from_its_cache():
    model, tokens = attached(**GIBBS), text(21)
    torch.manual_seed(0)
    first = model.generate(tokens, max_new_tokens=9, do_sample=True, pad_token_id=0, return_dict_in_generate=True)
    longer = torch.cat([first.sequences, text(7, seed=1)], dim=1)
    arguments = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    assert model.generate(longer, cache=first.cache, **arguments).equal(model.generate(longer, **arguments))


def test_forward_refuses_what_is_no_text_or_no_cache():
    model, tokens = attached(**GIBBS), text(5)
    with pytest.raises(InputError, match="cache must be a StreamCache, got a DynamicCache; leave it out"):
        model(tokens, cache=DynamicCache())
    with pytest.raises(InputError, match="the input has no input_ids; embeddings in their place"):
        model.generate(inputs_embeds=torch.zeros(1, 5, 32), max_new_tokens=2)
    with pytest.raises(InputError, match="the input has no text"):
        model(tokens, torch.zeros_like(tokens))
    with pytest.raises(InputError, match=r"attention_mask must be \(1, 5\) or longer, got \(1, 4\)"):
        model(tokens, torch.ones(1, 4))
    cache = model(tokens, use_cache=True).cache
    with pytest.raises(InputError, match="the cache has 1 rows, but the input has 2"):
        model(text(5, rows=2), cache=cache)
    with pytest.raises(InputError, match="cannot give back what it has read"):
        StreamCache().crop(-1)
