"""Switch Transformers and T5 of transformers, with the weights of our models."""

import time
from importlib import import_module
from typing import Any, final

import torch
from torch import Tensor, nn

from turnout.bench.models import Size
from turnout.bench.peers.base import LayerPeer
from turnout.bench.timing import Part
from turnout.models import Model
from turnout.moe.layer import MoELayer

UNBOUNDED = 1 << 20  # slots of an expert
CACHES = ("static", "dynamic")
_LETTERS = {"q": "query", "k": "key", "v": "value", "o": "out"}


def like(size: Size, model: Model) -> Any:
    """Their model of the same shape in float32, every weight a copy of ours; no dropout, no noise,
    nothing dropped.

    Raises:
        RuntimeError: a weight of either has no place in the other.
    """
    foreign = _switch(size) if size.experts else _t5(size)
    parameters = dict(foreign.named_parameters())
    named = _named(model)
    if parameters.keys() != named.keys():
        raise RuntimeError(f"weights without a place: {sorted(parameters.keys() ^ named.keys())}")
    with torch.no_grad():
        for name, value in named.items():
            parameters[name].copy_(value)
    return foreign.eval()


@final
class Marks:
    """Takes the time of every token, as a streamer of their ``generate``."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        """Called with the start, and then with every new token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Called behind the last."""


def steps(foreign: Any, ids: Tensor, new: int, cache: str) -> Part:
    """The seconds from the first new token to the last."""
    marks = Marks()
    tokens(foreign, ids, new, cache, marks)
    return Part(marks.times[-1] - marks.times[1])


def tokens(
    foreign: Any, ids: Tensor, new: int, cache: str, marks: Marks | None = None
) -> list[list[int]]:
    """Greedy tokens behind prompts [B, S], without the start.

    Args:
        cache: of ``CACHES``.
    """
    written = foreign.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        cache_implementation=None if cache == "dynamic" else cache,
        streamer=marks,
    )
    found: list[list[int]] = written[:, 1:].tolist()
    return found


@final
class SwitchPeer(LayerPeer):
    """Their sparse layer: a loop over the experts that have tokens."""

    name = "transformers"

    def takes(self, k: int) -> bool:
        return k == 1

    def needed(self, tokens: int, experts: int, capacity: int, k: int) -> int:
        return 0  # no table has a row for every slot

    def layer(self, ours: MoELayer, capacity: int, row: int) -> nn.Module:
        w_in, w_out = (ours.experts.get_parameter(name) for name in ("w_in", "w_out"))
        experts, width, hidden = w_in.shape
        library = import_module("transformers")
        config = library.SwitchTransformersConfig(
            d_model=width,
            d_ff=hidden,
            num_experts=experts,
            expert_capacity=UNBOUNDED,
            dropout_rate=0.0,
            router_jitter_noise=0.0,
        )
        module = import_module(
            "transformers.models.switch_transformers.modeling_switch_transformers"
        )
        layer: nn.Module = module.SwitchTransformersSparseMLP(config)
        named: dict[str, Tensor] = {"router.classifier.weight": ours.router.get_parameter("weight")}
        for expert in range(experts):
            named[f"experts.expert_{expert}.wi.weight"] = w_in[expert].t()
            named[f"experts.expert_{expert}.wo.weight"] = w_out[expert].t()
        layer.load_state_dict({name: value.detach() for name, value in named.items()})
        return layer


def _common(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": size.vocabulary,
        "d_model": size.width,
        "d_kv": size.head_width,
        "d_ff": 4 * size.width,
        "num_layers": size.layers,
        "num_decoder_layers": size.layers,
        "num_heads": size.heads,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": None,
    }


def _switch(size: Size) -> Any:
    library = import_module("transformers")
    config = library.SwitchTransformersConfig(
        **_common(size),
        num_sparse_encoder_layers=size.layers // 2,
        num_sparse_decoder_layers=size.layers // 2,
        num_experts=size.experts,
        expert_capacity=UNBOUNDED,
        router_jitter_noise=0.0,
    )
    return library.SwitchTransformersForConditionalGeneration(config)


def _t5(size: Size) -> Any:
    library = import_module("transformers")
    return library.T5ForConditionalGeneration(library.T5Config(**_common(size)))


def _named(model: Any) -> dict[str, Tensor]:
    """The weights of our model by the names that transformers gives them."""
    named: dict[str, Tensor] = {"shared.weight": model.embedding.weight.detach()}
    dense = "mlp" if model.config.moe is not None else "DenseReluDense"
    for stack in model.stacks():
        top = stack.shape.name
        bias = f"{top}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        named[bias] = stack.position_bias.weight
        named[f"{top}.final_layer_norm.weight"] = stack.norm.weight
        for number, block in enumerate(stack.blocks):
            parts = [block.self_attention, block.cross_attention, block.feed_forward]
            for place, part in enumerate(part for part in parts if part is not None):
                layer = f"{top}.block.{number}.layer.{place}"
                named[f"{layer}.layer_norm.weight"] = part.norm.weight
                if part is block.feed_forward:
                    named |= _network(f"{layer}.{dense}", part)
                else:
                    kind = "EncDecAttention" if part is block.cross_attention else "SelfAttention"
                    named |= _attention(f"{layer}.{kind}", part.attention)
    return named


def _attention(name: str, attention: Any) -> dict[str, Tensor]:
    return {
        f"{name}.{letter}.weight": getattr(attention, linear).weight
        for letter, linear in _LETTERS.items()
    }


def _network(name: str, part: Any) -> dict[str, Tensor]:
    if not part.sparse_layers():
        return {f"{name}.wi.weight": part.network.w_in, f"{name}.wo.weight": part.network.w_out}
    named = {f"{name}.router.classifier.weight": part.moe.router.weight}
    experts = zip(part.moe.experts.w_in, part.moe.experts.w_out, strict=True)
    for expert, (w_in, w_out) in enumerate(experts):
        mlp = f"{name}.experts.expert_{expert}"
        named |= {f"{mlp}.wi.weight": w_in.t(), f"{mlp}.wo.weight": w_out.t()}
    return named
