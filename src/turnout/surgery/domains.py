"""Adding and removing the expert of a domain (DEMix, Gururangan et al., 2108.05036)."""

from dataclasses import replace

from turnout.config.errors import UserError, require
from turnout.config.model import ModelConfig
from turnout.config.routers import LabelRouter, RouterConfig
from turnout.surgery.base import Expectation
from turnout.surgery.bounds import finite
from turnout.surgery.changes import Blend
from turnout.surgery.layers import counts, sparse_layers
from turnout.surgery.recast import Recast
from turnout.surgery.routers import all_routers, never_drops


def add_domain(config: ModelConfig, of: int | None, noise: float = 0.0, seed: int = 0) -> Recast:
    """One more label, whose expert is a copy of that of label ``of``, the nearest domain in the
    paper, or the mean of all where that is None.

    Raises:
        UserError: the routers read no labels, or there is no such label.
    """
    labels = _labels(config)
    require(of is None or 0 <= of < labels, "--of", of, f"a label, 0 to {labels - 1}")
    finite("--noise", noise)
    added = replace(Blend.mean((expert, 1.0) for expert in range(labels)), noisy=True)
    if of is not None:
        added = Blend.copy(of, noisy=True)
    blends = {
        name: (
            *map(Blend.copy, range(labels)),
            added,
            *map(Blend.copy, range(labels, number)),
        )
        for name, number in counts(config).items()
    }
    return Recast(
        "domains",
        blends,
        Expectation(
            never_drops(config),
            "the experts of the known labels are as they were",
            f"{{turnout}} surgery domains {{run}} --out {{out}} --remove {labels}",
            (f"rows of the new domain have label {labels}, the next source of data.mixture",),
        ),
        {"add": labels, "of": "mean" if of is None else of, "noise": noise, "seed": seed},
        _with_labels(config, labels + 1),
        noise=noise,
        seed=seed,
        labels=tuple(range(labels)),
    )


def remove_domain(config: ModelConfig, label: int) -> Recast:
    """Without one label and its expert; those behind it move up by one, and its source leaves the
    run's mixture.

    Raises:
        UserError: the routers read no labels, there is no such label, or it is the only one.
    """
    labels = _labels(config)
    require(0 <= label < labels, "--remove", label, f"a label, 0 to {labels - 1}")
    require(labels > 1, "--remove", label, "one of several", "a model needs an expert")
    blends = {
        name: tuple(Blend.copy(expert) for expert in range(number) if expert != label)
        for name, number in counts(config).items()
    }
    left = tuple(each for each in range(labels) if each != label)
    return Recast(
        "domains",
        blends,
        Expectation(
            never_drops(config),
            "the experts of the other labels are as they were",
            notes=(f"labels above {label} are one less than before",),
        ),
        {"remove": label},
        _with_labels(config, labels - 1),
        removed=label,
        labels=left,
    )


def _labels(config: ModelConfig) -> int:
    assert sparse_layers(config)
    found = set()
    for layer in sparse_layers(config).values():
        assert layer.moe is not None
        router = layer.moe.router
        if not isinstance(router, LabelRouter):
            raise UserError(
                f"model.moe.router.kind = {router.kind!r}: "
                "must be 'label' for the experts of domains"
            )
        found.add(router.labels)
    if len(found) > 1:
        raise UserError(
            "model.moe.decoder_router.labels: must be as many as the encoder's, not "
            f"{sorted(found)}"
        )
    return found.pop()


def _with_labels(config: ModelConfig, labels: int) -> dict[str, RouterConfig | None]:
    assert config.moe is not None
    return all_routers(config.moe, lambda _: LabelRouter(labels))
