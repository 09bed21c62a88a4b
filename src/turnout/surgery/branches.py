"""Branch-Train-MiX (Sukhbaatar et al., 2403.07816): networks of several dense models become
experts, all other weights their mean."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

from turnout.config import io
from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.config.train import RunConfig
from turnout.convert.mapping import parameters
from turnout.surgery.base import Expectation, Rules, Surgery, one
from turnout.surgery.changes import Mean, Remade
from turnout.surgery.layers import HIDDEN
from turnout.surgery.upcycle import ADVICE, Sparse


@final
@dataclass(frozen=True)
class Branches(Surgery):
    """Expert i from model i; attention, norms and embeddings are averaged, routers drawn."""

    sparse: Sparse

    kind = "btx"

    def run(self, old: RunConfig) -> RunConfig:
        return self.sparse.run(old)

    def rules(self, old: ModelConfig, new: ModelConfig) -> Rules:
        layers = self.sparse.checked(new)
        found = self.sparse.routers(new, layers)
        count = self.sparse.experts
        blends = self.sparse.blends(range(count))
        networks = set()
        for layer in layers.values():
            for part in layer.parts:
                change = Remade(
                    blends,
                    parts=self.sparse.split,
                    hidden=HIDDEN[part],
                    scale=float(self.sparse.split) if part == "w_out" else 1.0,
                    dense=True,
                )
                networks.add(layer.dense(part))
                found.append(one(layer.stacked(part), of_all(layer.dense(part), count), change))
        kept = [name for name in parameters(old) if name not in networks]
        return found + [one(name, of_all(name, count), Mean()) for name in kept]

    def expected(self, old: ModelConfig, new: ModelConfig) -> Expectation:
        why = "several models become one; the figures before are those of the first"
        return Expectation(False, why, notes=(ADVICE,))

    def arguments(self) -> Mapping[str, Any]:
        return asdict(self)

    def old_labels(self) -> Sequence[int] | None:
        return None


def of_all(name: str, models: int) -> list[str]:
    """A tensor of each model, as rules name it."""
    return [name if number == 0 else f"{number}:{name}" for number in range(models)]


def require_alike(paths: Sequence[object], configs: Sequence[ModelConfig]) -> None:
    """Raises UserError unless all models have the first one's shape, naming the first field that
    differs."""
    wanted = dict(io.flat(io.to_dict(configs[0])))
    for path, config in zip(paths[1:], configs[1:], strict=True):
        found = dict(io.flat(io.to_dict(config)))
        for name in [*wanted, *found]:
            if found.get(name) != wanted.get(name):
                raise UserError(
                    f"{path}: model.{name} = {found.get(name)!r}: must be {wanted.get(name)!r}, as "
                    f"in {paths[0]}; models that are mixed have one shape"
                )
