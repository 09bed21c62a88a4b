"""How far a converted model is from the one in transformers: logits, predictions and routing.

Axes: B rows, S tokens, E experts, K choices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from turnout.config.errors import UserError
from turnout.config.model import EncoderDecoderConfig
from turnout.convert.repairs import mended
from turnout.data.batch import Batch, Stream
from turnout.models.base import Model

ROWS, LENGTH = 4, 48
ROUTERS = (".gate", ".router", ".mlp.router")  # ends of the names of transformers' routers


@dataclass(frozen=True)
class Parity:
    """Over the real tokens of a few random rows, one of them padded, in float32.

    Attributes:
        logits: the largest difference of any logit.
        divergence: mean KL divergence from transformers' distribution, in nats.
        top1: share of tokens with the same most probable next token.
        close: of those that differ, how many have two best logits within 1e-4 of each other.
        routing: share of the chosen experts that are the same, by our layer's name.
        tokens: how many were compared.
        mended: what is wrong in transformers and was set right first; empty where nothing is.
    """

    logits: float
    divergence: float
    top1: float
    close: int
    routing: dict[str, float]
    tokens: int
    mended: str = ""

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"parity with transformers over {self.tokens} random tokens, float32:",
            f"  largest logit difference  {self.logits:.2e}",
            f"  KL divergence             {self.divergence:.2e} nats",
            f"  same most probable token  {self.top1:.2%}"
            + (f" ({self.close} of the others within 1e-4)" if self.top1 < 1 else ""),
        ]
        if self.mended:
            found.append(f"  note: {self.mended}")
        return found + [
            f"  same experts, {name}  {share:.2%}" for name, share in self.routing.items()
        ]


@torch.no_grad()
def parity(foreign: Path, ours: Model, *, seed: int = 0) -> Parity:
    """Compares ``ours`` with the Hugging Face folder that it came from or went to.

    Raises:
        UserError: transformers is not installed, or cannot load the folder.
    """
    theirs = _transformers(foreign)
    note = mended(theirs)
    generator = torch.Generator().manual_seed(seed)
    shape, vocabulary = (ROWS, LENGTH), ours.config.vocab_size
    ids, decoder_ids = (torch.randint(2, vocabulary, shape, generator=generator) for _ in range(2))
    mask = torch.ones(shape, dtype=torch.bool)
    mask[-1, LENGTH // 2 :] = False
    two = isinstance(ours.config, EncoderDecoderConfig)
    words = {"input_ids": ids, "attention_mask": mask.long()}
    if two:
        words["decoder_input_ids"] = decoder_ids
    with _routing(theirs) as found:
        expected = theirs(**words).logits.float()
    whole = torch.ones_like(mask)
    batch = _batch(decoder_ids, whole, (ids, mask)) if two else _batch(ids, mask, None)
    output = ours.eval()(batch, routing=True)
    logits = output.head.logits(output.hidden)
    real = whole if two else mask
    decisions = {} if output.routing is None else output.routing.by_layer()
    masks = {name: mask if name.startswith("encoder") else real for name in decisions}
    chosen = {name: decision.named for name, decision in decisions.items()}
    compared = _compare(logits[real], expected[real], _agreement(chosen, found, masks))
    return replace(compared, mended=note)


def _compare(
    ours: Float[Tensor, "T V"], theirs: Float[Tensor, "T V"], routing: dict[str, float]
) -> Parity:
    expected, log_probability = theirs.log_softmax(-1), ours.log_softmax(-1)
    divergence = (expected.exp() * (expected - log_probability)).sum(-1).mean()
    same = ours.argmax(-1) == theirs.argmax(-1)
    best = theirs.topk(2, dim=-1).values
    close = (best[:, 0] - best[:, 1] < 1e-4) & ~same
    return Parity(
        logits=float((ours - theirs).abs().max()),
        divergence=max(float(divergence), 0.0),
        top1=float(same.float().mean()),
        close=int(close.sum()),
        routing=routing,
        tokens=len(ours),
    )


def _agreement(
    ours: dict[str, Int[Tensor, "B S K"]],
    theirs: list[Int[Tensor, "..."]],
    masks: dict[str, Bool[Tensor, "B S"]],
) -> dict[str, float]:
    """By layer; both run through their layers in the same order."""
    if len(ours) != len(theirs):
        return {}
    found = {}
    for (name, mine), other in zip(ours.items(), theirs, strict=True):
        real = masks[name].flatten()
        if other.shape[-1] != mine.shape[-1]:  # one-hot over all experts, as Switch has it
            other = other.argmax(-1, keepdim=True)
        left, right = (
            table.reshape(len(real), -1)[real].sort(-1).values for table in (mine, other)
        )
        found[name] = float((left == right).float().mean())
    return found


@contextmanager
def _routing(model: Any) -> Iterator[list[Int[Tensor, "..."]]]:
    """The experts that each router of a transformers model chooses, as it goes."""
    found: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        tables = [part for part in output if isinstance(part, Tensor)] if _several(output) else []
        if _masked(tables):
            found.append(tables[1].topk(2).indices)
            return
        for table in tables:
            if not table.is_floating_point():
                found.append(table)
                return

    handles = [
        module.register_forward_hook(keep)
        for name, module in model.named_modules()
        if name.endswith(ROUTERS)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _masked(tables: list[Tensor]) -> bool:
    """Whether they are NLLB's: a mask of each token's first expert, and all its weights."""
    if len(tables) < 2 or tables[0].shape != tables[1].shape:
        return False
    numbers = tables[1].is_floating_point() and not tables[0].is_floating_point()
    return numbers and int(tables[0].sum(-1).max()) == 1


def _several(output: Any) -> bool:
    return isinstance(output, tuple | list)


def _transformers(folder: Path) -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError(
            "--verify: compares with transformers, which is not installed: pip install transformers"
        ) from None
    config = transformers.AutoConfig.from_pretrained(folder)
    name = (config.architectures or ["AutoModelForCausalLM"])[0]
    if not hasattr(transformers, name):
        raise UserError(f"--verify: transformers {transformers.__version__} has no class {name}")
    table = dict(getattr(config, "quantization_config", {}))
    if table.get("quant_method") == "mxfp4":
        # It would compute in 4 bits where it has the kernels.
        config.quantization_config = {**table, "dequantize": True}
    cls = getattr(transformers, name)
    return cls.from_pretrained(folder, config=config, dtype=torch.float32).eval()


def _batch(
    ids: Int[Tensor, "B S"],
    mask: Bool[Tensor, "B S"],
    encoder: tuple[Int[Tensor, "B E"], Bool[Tensor, "B E"]] | None,
) -> Batch:
    row = torch.arange(ids.shape[0])
    return Batch(
        decoder=_stream(ids, mask),
        targets=torch.zeros_like(ids),
        target_mask=torch.zeros_like(mask),
        keys=row,
        row=row,
        encoder=None if encoder is None else _stream(*encoder),
    )


def _stream(ids: Int[Tensor, "B S"], mask: Bool[Tensor, "B S"]) -> Stream:
    position = (mask.long().cumsum(1) - 1).clamp(min=0)
    return Stream(ids=ids, mask=mask, segment=mask.long(), position=position)
