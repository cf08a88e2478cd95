"""DARTSformer: nets of one operation per node and the supernet, decoded as trained, and their settings."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from small_model import dictionary

from fairseq_infformer.errors import InputError
from fairseq_infformer.models.dartsformer import Architecture, Dartsformer, DartsformerSearch, read_architecture
from fairseq_infformer.models.dartsformer.architecture import chosen
from fairseq_infformer.models.dartsformer.configuration import DartsformerConfig, DartsformerSearchConfig
from fairseq_infformer.modules.operations import OPERATIONS

SIZES = {
    "embed_dim": 24,
    "factor_dim": 8,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "attention_heads": 2,
    "dropout": 0.0,
}
ARCHITECTURE = Architecture(
    encoder=(("feed-forward", "convolution-3"), ("self-attention", "dynamic-convolution-7")),
    decoder=(("feed-forward", "self-attention"), ("continuous-attention", "convolution-5")),
)
# As few as show all that a mixture has to do.
FEW = {
    "encoder_operations": "feed-forward,self-attention,zero,identity,convolution-3",
    "decoder_operations": "feed-forward,self-attention,zero,identity,convolution-3,cross-attention",
}


def translation(**settings) -> TranslationTask:
    return TranslationTask(TranslationConfig(**settings), dictionary(), dictionary())


def build(architecture: str | None = ARCHITECTURE.to_json(), **settings) -> Dartsformer:
    torch.manual_seed(0)
    cfg = DartsformerConfig(**(SIZES | {"architecture": architecture} | settings))
    return Dartsformer.build(cfg, translation()).eval()


def build_search(task: TranslationTask | None = None, **settings) -> DartsformerSearch:
    torch.manual_seed(0)
    cfg = DartsformerSearchConfig(**(SIZES | FEW | settings))
    return DartsformerSearch.build(cfg, task or translation()).eval()


def sentences() -> dict[str, torch.Tensor]:
    """Three sources, padded on the left as fairseq does, and the beginnings of targets."""
    torch.manual_seed(1)
    source, target = torch.randint(4, 40, (3, 7)), torch.randint(4, 40, (3, 6))
    source[:, -1], target[:, 0] = 2, 2  # ends of sentences
    source[1, :3] = source[2, :1] = 1  # pads
    return {"src_tokens": source, "src_lengths": torch.tensor([7, 4, 6]), "prev_output_tokens": target}


@pytest.mark.parametrize("model", [build, build_search])
def test_decoder_continues_as_it_was_trained_whatever_a_beam_search_reorders(model):
    net, batch = model().double(), sentences()
    expected = net(**batch)[0]
    encoded = net.encoder(batch["src_tokens"])
    tokens, state, order = batch["prev_output_tokens"], {}, torch.tensor([1, 1, 0])
    for length in range(1, 4):
        logits = net.decoder(tokens[:, :length], encoded, state)[0]
        torch.testing.assert_close(logits[:, 0], expected[:, length - 1], rtol=0, atol=1e-10)
    net.decoder.reorder_incremental_state_scripting(state, order)
    encoded = net.encoder.reorder_encoder_out(encoded, order)
    for length in range(4, 7):
        logits = net.decoder(tokens[order, :length], encoded, state)[0]
        torch.testing.assert_close(logits[:, 0], expected[order, length - 1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("model", [build, build_search])
def test_padded_source_is_read_as_if_alone(model):
    net, batch = model().double(), sentences()
    expected = net(**batch)[0][1:2]
    alone = net(batch["src_tokens"][1:2, 3:], None, batch["prev_output_tokens"][1:2])[0]
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-10)


def test_beam_search_finds_the_translation_with_the_greatest_probability():
    net, batch = build(), sentences()
    generator = SequenceGenerator([net], dictionary(), beam_size=3, max_len_b=5, normalize_scores=False)
    for row, hypotheses in enumerate(generator.generate([net], {"net_input": batch})):
        best = hypotheses[0]
        before = torch.cat([torch.tensor([2]), best["tokens"][:-1]])[None]
        logits = net(batch["src_tokens"][row : row + 1], None, before)[0].log_softmax(-1)
        score = logits[0].gather(1, best["tokens"][:, None]).sum()
        assert float(best["score"]) == pytest.approx(float(score), abs=1e-4)
        assert best["score"] == max(each["score"] for each in hypotheses)


@pytest.mark.parametrize("model", [build, build_search])
def test_every_parameter_gets_a_gradient(model):
    net = model().train()
    (net(**sentences())[0] * torch.randn(40)).sum().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


def test_search_rebuilds_what_it_would_keep():
    gradients = []
    for keep in (False, True):
        net = build_search(keep_activations=keep).double()
        net(**sentences())[0].logsumexp(-1).sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    for found, expected in zip(*gradients):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_search_derives_the_operation_with_the_greatest_alpha_but_never_zero():
    net = build_search()
    with torch.no_grad():
        net.encoder.layers.alpha[1, 0, 4] = net.decoder.layers.alpha[0, 1, 5] = 1
        net.encoder.layers.alpha[:, :, 2] = 2  # zero
    derived = net.architecture()
    assert derived.encoder[1][0] == "convolution-3" and derived.decoder[0][1] == "cross-attention"
    assert "zero" not in str(derived)
    assert chosen(["zero", "identity", "feed-forward"], [[[0.9, 0.04, 0.06]]]) == (("feed-forward",),)
    build(derived.to_json())


def test_layers_repeat_until_the_net_has_all_of_them():
    net = build(encoder_layers=4)
    kinds = [[type(node.operations[0].operation) for node in layer] for layer in net.encoder.layers.sequence.layers]
    assert kinds[:2] == kinds[2:]
    expected = OPERATIONS["self-attention"].operation
    assert kinds[1][0] is kinds[3][0] is expected


def test_shared_embeddings_are_one():
    net = build_search(share_all_embeddings=True)
    assert net.encoder.embedding.tokens is net.decoder.embedding.tokens
    task = TranslationTask(TranslationConfig(), dictionary("a"), dictionary("b"))
    with pytest.raises(InputError, match="--share-all-embeddings needs one dictionary"):
        build_search(task, share_all_embeddings=True)


def test_architecture_file_is_read_into_the_settings(tmp_path):
    file = tmp_path / "architecture.json"
    file.write_text(ARCHITECTURE.to_json())
    cfg = SimpleNamespace(architecture=str(file))
    Dartsformer.complete(cfg)
    file.unlink()
    assert read_architecture(cfg.architecture) == ARCHITECTURE


def changed(**sides: object) -> str:
    return json.dumps(json.loads(ARCHITECTURE.to_json()) | sides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must have exactly the entries encoder and decoder"),
        ('{"encoder": []', "is not JSON"),
        (changed(other=[]), "must have exactly the entries encoder and decoder"),
        (changed(encoder=[]), "must have a list of layers as encoder"),
        (
            changed(decoder=[["zero", "identity"]] * 2),
            "has 'zero' in layer 0 of the decoder, which would leave its node",
        ),
        (
            changed(encoder=[["identity", "cross-attention"]] * 2),
            "has 'cross-attention' in layer 0 of the encoder; give",
        ),
        (changed(decoder=[["identity", "pool"]] * 2), "has 'pool' in layer 0 of the decoder; give one of continuous-"),
        (changed(decoder=[["identity"] * 3] * 2), "encoder 2 and 2; decoder 3 and 3"),
        (changed(decoder=[["identity"] * 2]), "as many layers in the encoder as in the decoder, got 2 and 1"),
        (changed(decoder=[[["identity"], "identity"]] * 2), "has ['identity'] in layer 0 of the decoder; give one of"),
    ],
)
def test_wrong_architecture_is_named_in_one_line(text, message, tmp_path):
    file = tmp_path / "net.json"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        build(str(file))
    assert str(error.value).startswith(f"--architecture {file} ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": None}, "--architecture is missing"),
        ({"architecture": "nowhere.json"}, "--architecture nowhere.json cannot be read (No such file"),
        ({"embed_dim": 18}, "--embed-dim must be a multiple of 2 splits times --attention-heads, got 18 and 2"),
        ({"embed_dim": 16}, "--embed-dim must be a multiple of 3 splits"),
        ({"encoder_layers": 3}, "--encoder-layers must be a multiple of the 2 layers that repeat, got 3"),
        ({"decoder_layers": 0}, "--decoder-layers must be 1 or more, got 0"),
        ({"dropout": 1.0}, "--dropout must lie in [0, 1), got 1.0"),
    ],
)
def test_wrong_setting_is_named_in_one_line(settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": 1}, "--splits must be 2 or more, got 1"),
        ({"encoder_operations": "cross-attention,identity"}, "--encoder-operations has 'cross-attention'; choose from"),
        ({"decoder_operations": "identity,zero"}, "--decoder-operations must be two or more different operations"),
    ],
)
def test_wrong_setting_of_a_search_is_named_in_one_line(settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build_search(**settings)


def test_task_that_does_not_translate_is_refused():
    with pytest.raises(InputError, match="DARTSformer translates; give --task translation"):
        build_search(SimpleNamespace())
    with pytest.raises(InputError, match="--left-pad-target would put pads before"):
        build_search(translation(left_pad_target=True))


def test_weights_of_another_net_are_refused():
    other = build(changed(encoder=[["identity", "feed-forward"]] * 2))
    with pytest.raises(InputError, match="the weights in the checkpoint are of another architecture or size"):
        other.load_state_dict(build().state_dict())


def test_architecture_is_written_so_that_one_can_read_it():
    assert '    ["feed-forward", "self-attention"],\n' in ARCHITECTURE.to_json()
