"""Sparse models of transformers in their published proportions, each in a process of its own."""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final, final

import torch
from torch import nn

from turnout.integrations.transformers import use
from turnout.train.host_memory import keep_freed_memory

VOCABULARY, LENGTH, HEAD = 1024, 256, 64


@dataclass(frozen=True)
class Family:
    """A family of models, in its published proportions.

    Attributes:
        names: of its configuration and of its model.
        k: experts of a token.
        ratio: width of an expert over that of the model.
        field: the configuration's name of an expert's width.
    """

    names: tuple[str, str]
    k: int
    ratio: float
    field: str = "intermediate_size"


FAMILIES: Final[Mapping[str, Family]] = {
    "Mixtral": Family(("MixtralConfig", "MixtralForCausalLM"), 2, 14336 / 4096),
    "OLMoE": Family(("OlmoeConfig", "OlmoeForCausalLM"), 8, 1024 / 2048),
    "Qwen3-MoE": Family(
        ("Qwen3MoeConfig", "Qwen3MoeForCausalLM"), 8, 768 / 2048, "moe_intermediate_size"
    ),
}


@dataclass(frozen=True)
class Work:
    """What a process is started with.

    Attributes:
        family: one of ``FAMILIES``.
        tokens: of the batch, a multiple of ``LENGTH``.
        dtype: ``float32``; ``autocast``, bfloat16 over float32 weights; ``bfloat16`` throughout.
        backward: whether gradients are computed too.
    """

    family: str
    experts: int
    tokens: int
    width: int
    layers: int
    dtype: str
    backward: bool
    threads: int

    @property
    def hidden(self) -> int:
        """Width of an expert."""
        return max(round(self.width * FAMILIES[self.family].ratio), 1)

    @property
    def copied(self) -> int:
        """Bytes of weights that ``batched_mm`` copies for a layer: an expert's for each choice."""
        size = 2 if self.dtype == "bfloat16" else 4
        return self.tokens * FAMILIES[self.family].k * 3 * self.width * self.hidden * size


@dataclass(frozen=True)
class Done:
    """A step's loss in nats, and the norm of the gradients of all experts, of the first step."""

    loss: float
    norm: float


@final
class Worker:
    """The end of a process that takes steps on one implementation of the experts."""

    def __init__(self, implementation: str, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(implementation, work, other), daemon=True
        )
        self._process.start()
        other.close()  # so that a process that dies is an end of the pipe
        self._seed = 0

    def step(self) -> Done:
        """Takes a step on the next text.

        Raises:
            RuntimeError: the process ended.
        """
        self._pipe.send(self._seed)
        self._seed += 1
        try:
            done: Done = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a process of the benchmark ended; see above") from None
        return done

    def close(self) -> None:
        """Ends the process."""
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join()
        self._pipe.close()


@contextmanager
def workers(implementations: Sequence[str], work: Work) -> Iterator[dict[str, Worker]]:
    """A process for each implementation."""
    found = {name: Worker(name, work) for name in implementations}
    try:
        yield found
    finally:
        for worker in found.values():
            worker.close()


def model(work: Work) -> Any:
    """Random weights, the same for each dtype."""
    family = FAMILIES[work.family]
    library = import_module("transformers")
    torch.manual_seed(0)
    heads = max(work.width // HEAD, 1)
    config = getattr(library, family.names[0])(
        vocab_size=VOCABULARY,
        hidden_size=work.width,
        num_hidden_layers=work.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=work.width // heads,
        num_experts=work.experts,
        num_experts_per_tok=family.k,
        eos_token_id=1,
        pad_token_id=0,
        **{family.field: work.hidden},
    )
    made = getattr(library, family.names[1])(config)
    return made.bfloat16() if work.dtype == "bfloat16" else made


def step(made: Any, work: Work, seed: int) -> Done:
    """Loss, and the backward pass where there is one; gradients of the step before are gone.

    The first step has its backward pass in any case, so that gradients can be compared.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (work.tokens // LENGTH, LENGTH), generator=generator)
    made.zero_grad(set_to_none=True)
    with (
        torch.set_grad_enabled(work.backward or seed == 0),
        torch.autocast("cpu", torch.bfloat16, enabled=work.dtype == "autocast"),
    ):
        loss = made(input_ids=ids, labels=ids, use_cache=False).loss
    if loss.requires_grad:
        loss.backward()
    return Done(loss.item(), experts_norm(made) if seed == 0 else 0.0)


def experts_norm(made: Any) -> float:
    """The norm of the gradients of all experts."""
    named = ((name, weight.grad) for name, weight in made.named_parameters())
    found = [grad.float() for name, grad in named if ".experts." in name and grad is not None]
    return float(nn.utils.get_total_norm(found))


def _serve(implementation: str, work: Work, pipe: Connection) -> None:
    """Answers every seed of a text with a step, until there is none."""
    if work.threads:
        torch.set_num_threads(work.threads)
    keep_freed_memory()
    import_module("transformers.utils.logging").set_verbosity_error()
    use()
    made = model(work)
    made.set_experts_implementation(implementation)
    while (seed := pipe.recv()) is not None:
        pipe.send(step(made, work, seed))
