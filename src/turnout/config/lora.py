"""Low-rank adapters (LoRA, Hu et al. 2021, 2106.09685): what they are put on, and how large."""

from dataclasses import dataclass

from turnout.config.errors import positive, require

WORDS = ("attention", "ffn", "experts", "router", "all")


@dataclass(frozen=True)
class LoraConfig:
    """Trains ``alpha / rank * A B`` beside each chosen matrix, which stays as it is.

    ``targets`` are words or patterns. ``attention`` are its projections, ``ffn`` dense feed-forward
    networks and shared experts, ``experts`` the stacked experts, each with an adapter of its own,
    ``router`` the routers, ``all`` all of these. Anything else is a pattern over the names of
    parameters, such as ``decoder.blocks.3.*``. Each of them must match something.
    ``dropout`` acts on what enters the adapters.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("attention", "experts")

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora.rank", self.rank, "at least 1", "set lora to none for none")
        positive("lora.alpha", self.alpha)
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "in [0, 1)")
        named = bool(self.targets) and all(target.strip() for target in self.targets)
        require(
            named,
            "lora.targets",
            list(self.targets),
            f"a list of {', '.join(WORDS)}, or patterns over the names of parameters",
        )
