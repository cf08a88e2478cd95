"""What is noted of a model's memories is what its own states and reports give."""

import pytest
import torch
from small_model import TYPES, build, run, same_text
from torch.nn import functional as F

from fairseq_infformer.inspect.observation import LineObserver, SlotObserver, observe

SEGMENT, LENGTH = 5, 48
STM = 3  # of ``build``


@pytest.fixture
def tokens():
    return torch.randint(4, TYPES, (LENGTH,), generator=torch.Generator().manual_seed(0))


def source(tokens):
    return torch.cat([torch.tensor([2]), tokens[:-1]])[None]


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"long_term_memory": "slots", "slots_count": 3}])
def test_observe_gives_the_losses_with_and_without_memory(settings, tokens):
    model, without = build(**settings), build(ltm_ablation="zero", **settings)
    counts: list[int] = []
    observed = observe(model, SEGMENT, tokens, counts.append)
    for each, losses in [(model, observed.losses), (without, observed.losses_without)]:
        logits = run(each, source(tokens), SEGMENT)[0]
        same_text(losses, F.cross_entropy(logits, tokens, reduction="none"))
    assert not observed.losses.allclose(observed.losses_without) and sum(counts) == 2 * LENGTH
    assert observe(model, SEGMENT, tokens).losses.equal(observed.losses)  # nothing stays replaced


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [{}, {"ltm_sampling": "sticky"}, {"ltm_density": "gibbs"}, {"ltm_density": "gaussian", "ltm_layers": "1"}],
)
def test_line_observer_notes_reads_and_what_is_rebuilt(settings, tokens):
    model = build(**settings)
    observed = observe(model, SEGMENT, tokens)
    # The same from the states between segments, and from reports that have what those of Gibbs have if they are asked.
    for memory in model.decoder.long_term_memories().values():
        memory.attention.weights = True
    states, reports = model.decoder.initial_state(1), []
    for part in source(tokens).split(SEGMENT, dim=1):
        length = torch.tensor([part.shape[1]])
        states, _ = model.decoder.read_segment(states, (part, length, torch.tensor([not reports])))
        reports.append([state.report for state in states])
    for number, observer in observed.layers.items():
        assert isinstance(observer, LineObserver)
        assert observer.written == len(observer.line) == LENGTH - 3 - STM  # the last segment, of 3, and the window
        assert observer.state.coefficients.equal(states[number].long_term.coefficients)
        assert len(observer.looks) == len(reports) - 1  # there is nothing to see in the first segment
        look, density = observer.looks[-1], reports[-1][number].density
        edges = torch.linspace(0, 1, look.share.shape[1] + 1)
        assert look.start == LENGTH - 3
        torch.testing.assert_close(look.share.float(), density.cdf(edges).diff(dim=-1)[0].mean(1))
        halves = look_quartiles(look.share)
        assert (look.words - observer.line.vectors_at(halves)).abs().max() <= 1

        past = torch.cat(observer.past)
        basis, signal = observer.memory.memory.basis, observer.state.coefficients[0]
        for index in (0, 20, observer.written - 1):
            center = observer.line.centers[index : index + 1].float()
            error = (basis.evaluate(center) @ signal - past[index]).square().sum()
            torch.testing.assert_close(observer.rebuilt()[index], error)
        torch.testing.assert_close(observer.variances().mean(), past.var(0, correction=0).sum())


def look_quartiles(share):
    """Positions with a quarter, a half and three quarters of the mass on the line to the left."""
    cumulated = torch.cat([share.new_zeros(len(share), 1), share.cumsum(-1)], dim=1)
    edges = torch.linspace(0, 1, cumulated.shape[1], dtype=torch.float64)
    rows = []
    for row in cumulated / cumulated[:, -1:]:
        rows.append([])
        for wanted in (0.25, 0.5, 0.75):
            right = int((row > wanted).nonzero()[0])
            inside = (wanted - row[right - 1]) / (row[right] - row[right - 1])
            rows[-1].append(float(edges[right - 1] + inside * (edges[right] - edges[right - 1])))
    return torch.tensor(rows, dtype=torch.float64)


def test_slot_observer_gives_the_words_of_each_slot(tokens):
    compressive = {"long_term_memory": "compressive", "compressive_length": 4, "compressive_rate": 2}
    observed = observe(build(**compressive, compressive_function="mean"), SEGMENT, tokens)
    written = LENGTH - 3 - STM
    for observer in observed.layers.values():
        assert isinstance(observer, SlotObserver) and observer.written == written == 42
        expected = torch.zeros(4, written)
        for slot in range(4):
            expected[slot, written - 8 + 2 * slot : written - 6 + 2 * slot] = 0.5
        torch.testing.assert_close(observer.weights(most=9), expected)
        assert observer.weights(most=2).equal(observer.weights(most=9)[[0, 3]])

    waiting = observe(build(**compressive | {"compressive_rate": 64}), SEGMENT, tokens)
    assert waiting.layers[0].weights(most=9).shape == (0, written)

    observed = observe(build(long_term_memory="heavy-hitters", hitters_length=6), SEGMENT, tokens)
    weights = observed.layers[0].weights(most=9)
    assert weights.shape == (6, written) and (weights.amax(-1) == 1).all()  # each slot is a vector as it was
    for slot, index in enumerate(weights.argmax(-1).tolist()):
        assert observed.layers[0].state.slots.hidden[0, slot].equal(torch.cat(observed.layers[0].past)[index])

    observed = observe(build(long_term_memory="slots", slots_count=3), SEGMENT, tokens)
    weights = observed.layers[1].weights(most=9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3))
    assert (weights > 0).sum() > written


@torch.no_grad()
def test_observe_reads_a_pretrained_model_whose_first_tokens_are_sinks(tokens):
    pytest.importorskip("transformers")
    from small_pretrained import GIBBS, VOCABULARY, attached, close

    from fairseq_infformer.models.pretrained_lm import PretrainedConfig, PretrainedDecoder, PretrainedLM
    from fairseq_infformer.vocabulary_files import TokenizerDictionary

    dictionary = TokenizerDictionary([f"token{number}" for number in range(VOCABULARY)])
    attached = attached(segment=SEGMENT, **GIBBS)
    model = PretrainedLM(PretrainedConfig(), SEGMENT, PretrainedDecoder(dictionary, attached)).eval()
    observed = observe(model, SEGMENT, tokens)
    text = torch.cat([torch.tensor([attached.config.start_token]), tokens[:-1]])[None]
    close(observed.losses, F.cross_entropy(attached(text).logits[0], tokens, reduction="none"))
    assert model.decoder.sinks == 4 and sorted(observed.layers) == [0, 1]
    # What the first layer writes depends on the token alone, so its vectors say which token is the first.
    numbers = text[0, model.decoder.sinks :][: observed.layers[0].written]
    past = torch.cat(observed.layers[0].past)
    for index in range(1, len(past)):
        same = (past[:index] - past[index]).abs().amax(-1) < 1e-5
        assert same.equal(numbers[:index] == numbers[index])
