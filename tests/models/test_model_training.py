"""Initial weights, gradients, recomputation, dropout, compilation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.models.cases import CASES, DENSE, LENGTH, MODERN, T5, batch_for
from turnout.config.attention import AttentionConfig
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.initialisation import NormalInit
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig
from turnout.data.batch import Batch
from turnout.models import Model, ModelOutput, build

SWITCH = replace(
    T5,
    vocab_size=256,
    d_model=64,
    attention=AttentionConfig(4, 32, scaled=False),
    feed_forward=FeedForwardConfig(128, "geglu"),
    moe=MoEConfig(4, extra_ffn=True),
    tied=False,
)

# Width 64, 4 heads of 32 (query width 128), hidden width 128, experts scaled by 0.1.
FAN_IN = {
    "embedding": 1.0,
    "head": 64**-0.5,
    "position_bias": 64**-0.5,
    "query": (64 * 32) ** -0.5,
    "key": 64**-0.5,
    "value": 64**-0.5,
    "out": 128**-0.5,
    "network.w_in": 64**-0.5,
    "network.w_gate": 64**-0.5,
    "network.w_out": 128**-0.5,
    "router": (0.1 / 64) ** 0.5,
    "experts.w_in": (0.1 / 64) ** 0.5,
    "experts.w_gate": (0.1 / 64) ** 0.5,
    "experts.w_out": (0.1 / 128) ** 0.5,
}


def ready(config: ModelConfig, *, recompute: bool = False) -> Model:
    model = build(config, recompute=recompute)
    model.init_weights(0)
    return model


def backward(model: Model, batch: Batch) -> tuple[ModelOutput, dict[str, Tensor]]:
    output = model(batch)
    loss = output.head.cross_entropy(output.hidden, batch.targets, batch.target_mask, z_weight=0.01)
    total = loss.total
    for layer in output.layers:
        total = total + layer.router.z.sum() + layer.router.probability.square().sum()
    total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return output, gradients


def matrices(model: Model) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.ndim > 1}


def assert_deviation(name: str, weight: Tensor, std: float) -> None:
    # Of n normal draws the measured deviation is off by std / sqrt(2 n), less after a cut.
    allowed = 5 / (2 * weight.numel()) ** 0.5
    assert weight.std().item() == pytest.approx(std, rel=allowed), name
    assert abs(weight.mean().item()) < 5 * std / weight.numel() ** 0.5, name


def test_fan_in_deviations_of_every_matrix() -> None:
    found = set()
    for name, weight in matrices(ready(SWITCH)).items():
        (part,) = [part for part in FAN_IN if f".{part}." in f".{name}."]
        assert_deviation(name, weight, FAN_IN[part])
        found.add(part)
    assert found == set(FAN_IN)


def test_normal_deviations_of_every_matrix() -> None:
    config = replace(SWITCH, initialisation=NormalInit(0.05))
    for name, weight in matrices(ready(config)).items():
        if "moe" not in name:
            assert_deviation(name, weight, 0.05)
    # Experts and routers keep the 0.1 rule unless told to start as the rest.
    experts = ready(config).sparse_layers()["decoder.1.moe"].experts
    assert_deviation("w_in", experts.w_in, (0.1 / experts.w_in.shape[1]) ** 0.5)
    assert config.moe is not None
    config = replace(config, moe=replace(config.moe, init_scale=None))
    for name, weight in matrices(ready(config)).items():
        assert_deviation(name, weight, 0.05)
        assert weight.abs().max().item() < 3.1 * 0.05


def test_norms_start_at_one_and_nothing_is_left_unfilled() -> None:
    model = build(CASES["olmoe"])
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    model.init_weights(3)
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert (
            parameter.ndim > 1
            or "norm" not in name
            or torch.equal(parameter, torch.ones_like(parameter))
        )


def test_a_shared_embedding_scales_the_logits_where_it_starts_at_one() -> None:
    # T5 1.0: width 16, so the hidden states are multiplied by 16^-0.5 = 1/4.
    hidden = torch.ones(1, 16)
    for config, scale in (
        (T5, 0.25),
        (replace(T5, tied=False), 1.0),
        (replace(T5, initialisation=NormalInit()), 1.0),
    ):
        model = ready(config)
        weight = model.embedding.weight if config.tied else model.head.weight
        head = model(batch_for(config, [3], [3])).head
        torch.testing.assert_close(head.logits(hidden), scale * weight.sum(1).unsqueeze(0))


def test_no_two_layers_draw_the_same_noise() -> None:
    model = build(replace(CASES["switch"], encoder_layers=4, decoder_layers=4), device="meta")
    indices = [layer.router.layer for layer in model.sparse_layers().values()]
    # 1 and 3 of the encoder, then 4 + 1 and 4 + 3.
    assert indices == [1, 3, 5, 7]


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, other = ready(CASES["switch"]), ready(CASES["switch"])
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    other.init_weights(1)
    assert not torch.equal(one.embedding.weight, other.embedding.weight)


@pytest.mark.parametrize("name", CASES)
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = ready(CASES[name])
    batch = batch_for(CASES[name], [16, 9, 12], [11, 16, 3], side="left")
    _, gradients = backward(model, batch)
    for parameter_name, _ in model.named_parameters():
        gradient = gradients[parameter_name]
        assert torch.isfinite(gradient).all(), parameter_name
        assert gradient.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", CASES)
def test_recomputation_changes_nothing(name: str, dropout: float) -> None:
    config = replace(CASES[name], dropout=dropout)
    batch = batch_for(config, [16, 9], [11, 16])
    results = []
    for recompute in (False, True):
        torch.manual_seed(5)
        results.append(backward(ready(config, recompute=recompute), batch))
    (plain, plain_gradients), (again, again_gradients) = results
    assert torch.equal(plain.hidden, again.hidden)
    for one, other in zip(plain.layers, again.layers, strict=True):
        assert torch.equal(one.kept, other.kept)
        assert torch.equal(one.router.tokens, other.router.tokens)
    for name_, gradient in plain_gradients.items():
        assert torch.equal(gradient, again_gradients[name_]), name_


def test_recomputation_runs_the_blocks_again() -> None:
    runs = []
    for recompute in (False, True):
        model = ready(MODERN, recompute=recompute)
        count = [0]
        first = model.decoder.blocks[0].self_attention.attention.query
        first.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        backward(model, batch_for(MODERN, [16], [16]))
        runs.append(count[0])
    assert runs == [1, 2]


@pytest.mark.parametrize("name", ["modern", "t5"])
def test_dropout_acts_in_training_alone(name: str) -> None:
    config = replace(DENSE[name], dropout=0.3)
    model, batch = ready(config), batch_for(config, [16], [16])
    assert not torch.equal(model(batch).hidden, model(batch).hidden)
    model.eval()
    assert torch.equal(model(batch).hidden, model(batch).hidden)


@pytest.mark.parametrize("name", CASES)
def test_padding_on_any_side_changes_nothing(name: str) -> None:
    config = CASES[name]
    model = ready(config)
    outputs = []
    for side, width in (("right", 12), ("left", 12), ("right", LENGTH), ("left", LENGTH)):
        batch = batch_for(config, [12, 7], [5, 12], side=side, width=width)
        outputs.append(model(batch).hidden[batch.decoder.mask])
    for other in outputs[1:]:
        torch.testing.assert_close(outputs[0], other, atol=1e-5, rtol=1e-5)


def test_bf16_stays_near_float32() -> None:
    batch = batch_for(MODERN, [16, 12], [1, 1])
    exact = ready(MODERN)(batch).hidden
    low = build(MODERN, dtype=torch.bfloat16)
    low.init_weights(0)
    # bf16 keeps 8 bits: rounding errors of 2^-9 a step, some dozen steps.
    error = (low(batch).hidden.float() - exact)[batch.decoder.mask]
    assert error.norm() < 0.03 * exact[batch.decoder.mask].norm()


def test_routing_is_returned_when_asked_for() -> None:
    model, batch = ready(CASES["switch"]), batch_for(CASES["switch"], [9, 4], [8, 3])
    assert model(batch).routing is None
    record = model(batch, routing=True).routing
    assert record is not None
    assert record.names == ("encoder.1.moe", "decoder.1.moe")
    decided = record.layers[1].expert[..., 0]
    assert ((decided >= 0) == batch.decoder.mask).all()
