"""Loads, saliencies and likeness of experts, token by token."""

import pytest
import torch

import turnout
from tests.surgery.models import BIASED, SWITCH, built, decoder, sparse, two_stacks
from turnout.config.objective import CausalConfig, SpanConfig
from turnout.config.train import RunConfig
from turnout.surgery.observe import alike, flattened, observe
from turnout.surgery.rows import random_rows


def rows_of(config):
    span = config.kind == "encoder_decoder"
    return random_rows(RunConfig(config, SpanConfig() if span else CausalConfig()))


@pytest.mark.parametrize(
    "config",
    [decoder(BIASED, sparse()), two_stacks(moe=sparse(**SWITCH))],
    ids=["top-2", "switch"],
)
def test_against_one_token_after_the_other(config):
    model, rows = built(config), rows_of(config)
    seen = {}
    handles = [
        layer.register_forward_hook(
            lambda module, inputs, output: seen.update({module.name: (inputs[0], output[2])})
        )
        for layer in model.sparse_layers().values()
    ]
    found = observe(model, rows)
    for handle in handles:
        handle.remove()
    assert list(found) == list(model.sparse_layers())
    for name, layer in model.sparse_layers().items():
        x, decision = seen[name]
        load, weighted = [0] * 4, [0.0] * 4
        outputs = torch.zeros(4, 8, dtype=torch.float64)
        for row in range(x.shape[0]):
            for place in range(x.shape[1]):
                each = [network(layer, e, x[row, place]) for e in range(4)]
                outputs += torch.stack(each).double()
                for expert, weight in zip(
                    decision.expert[row, place].tolist(),
                    decision.weight[row, place].tolist(),
                    strict=True,
                ):
                    load[expert] += 1
                    weighted[expert] += weight * float(each[expert].norm())
        assert found[name].load == tuple(map(float, load))
        expected = [w / max(n, 1) for w, n in zip(weighted, load, strict=True)]
        assert found[name].saliency == pytest.approx(expected, rel=1e-4)
        assert torch.allclose(found[name].output, outputs / (x.shape[0] * x.shape[1]), atol=1e-5)
        # 4 rows of 48 tokens, so many choices each.
        assert sum(load) == 4 * 48 * layer.router.choices


def network(layer, expert, x):
    """One expert on one token: the others get none."""
    ends = torch.tensor([int(e >= expert) for e in range(4)])
    with torch.no_grad():
        return layer.experts(x[None], ends)[0]


def test_the_nearest_groups_become_one():
    """Directions at 0, 10, 90, 100 and 180 degrees, the second twice as long, which does not count.

    Distances 1 - cos: 0.015 between 0 and 10, 90 and 100. Two groups of two and 180 are left at
    three. At two: {90, 100} is at 90 and 80 degrees of 180 (1, 0.826: mean 0.913); {0, 10} at 180
    and 170 (2, 1.985); {0, 10} and {90, 100} at 90, 100, 80, 90 (1, 1.174, 0.826, 1: mean 1).
    """
    degrees = torch.tensor([0.0, 90.0, 10.0, 180.0, 100.0], dtype=torch.float64).deg2rad()
    vectors = torch.stack([degrees.cos(), degrees.sin()], dim=1)
    vectors[2] *= 2
    assert alike(vectors, 5) == [[0], [1], [2], [3], [4]]
    assert alike(vectors, 4) in ([[0, 2], [1], [3], [4]], [[0], [1, 4], [2], [3]])
    assert alike(vectors, 3) == [[0, 2], [1, 4], [3]]
    assert alike(vectors, 2) == [[0, 2], [1, 3, 4]]
    assert alike(vectors, 1) == [[0, 1, 2, 3, 4]]


def test_large_groups_are_not_further_away():
    """Directions at 0, 2, 4, 30 and 75 degrees, three groups left: 30 is 0.134, 0.117 and 0.101
    from the first three, 0.117 on average and 0.352 in all; from 75 it is 0.293."""
    degrees = torch.tensor([0.0, 2.0, 4.0, 30.0, 75.0], dtype=torch.float64).deg2rad()
    vectors = torch.stack([degrees.cos(), degrees.sin()], dim=1)
    assert alike(vectors, 3) == [[0, 1, 2], [3], [4]]
    assert alike(vectors, 2) == [[0, 1, 2, 3], [4]]


def test_weights_of_an_expert_in_a_row():
    model = built(decoder(BIASED, sparse()))
    (layer, _) = model.sparse_layers().values()
    found = flattened(layer)
    assert found.shape == (4, sum(p[0].numel() for p in layer.experts.parameters()))
    with torch.no_grad():
        for parameter in layer.experts.parameters():
            parameter[3] = parameter[1] * 3
    groups = alike(flattened(layer), 3)
    assert groups == [[0], [1, 3], [2]]


def test_a_dense_model_has_nothing_to_observe():
    config = decoder()
    assert observe(built(config), rows_of(config)) == {}
    assert turnout.build_model(config).sparse_layers() == {}
