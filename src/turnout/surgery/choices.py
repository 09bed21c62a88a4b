"""Another number of experts a token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from turnout.config.errors import require
from turnout.config.model import ModelConfig
from turnout.config.train import RunConfig
from turnout.surgery.base import Expectation, Rules, Surgery
from turnout.surgery.layers import sparse_layers
from turnout.surgery.routers import all_routers, goes_back, with_k


@final
@dataclass(frozen=True)
class Choices(Surgery):
    """The routers choose ``k``; no weight changes."""

    k: int

    kind = "choices"

    def run(self, old: RunConfig) -> RunConfig:
        assert sparse_layers(old.model)
        require(self.k >= 1, "--k", self.k, "at least 1")
        moe = old.model.moe
        assert moe is not None
        require(moe.router.active != self.k, "--k", self.k, "another number than now")
        routers: dict[str, Any] = all_routers(moe, lambda router: with_k(router, self.k))
        return replace(old, model=replace(old.model, moe=replace(moe, **routers)))

    def rules(self, old: ModelConfig, new: ModelConfig) -> Rules:
        return []

    def expected(self, old: ModelConfig, new: ModelConfig) -> Expectation:
        assert old.moe is not None and new.moe is not None
        back = ""
        if goes_back(old.moe, new.moe):
            back = f"{{turnout}} surgery choices {{run}} --out {{out}} --k {old.moe.router.active}"
        return Expectation(False, "a token takes another number of experts", back)

    def arguments(self) -> Mapping[str, Any]:
        return {"k": self.k}

    def old_labels(self) -> Sequence[int] | None:
        return None
