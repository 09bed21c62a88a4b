"""A plan as plain data, for JSON: bytes, seconds, numbers; nothing is rounded."""

from dataclasses import asdict
from typing import Any

from turnout.config.model import ModelConfig
from turnout.plan.communication import collectives
from turnout.plan.cost import Outlook, seconds_of
from turnout.plan.search import Layout
from turnout.plan.work import LOADS

SIZES = ("data", "fsdp", "expert", "tensor", "sequence", "wire")


def model_facts(model: ModelConfig, row_flops: int, row_tokens: int) -> dict[str, Any]:
    """Parameters by component, and the arithmetic of a token."""
    count = model.param_count()
    return {
        "parameters": count.total,
        "active_parameters": count.active,
        "parameters_by_component": count.components.as_dict(),
        "forward_flops_a_token": row_flops / row_tokens,
        "training_flops_a_token": 3 * row_flops / row_tokens,
    }


def brief(layout: Layout) -> dict[str, Any]:
    """One line of the ranking."""
    plan, train = layout.plan, layout.config.train
    return {
        **{name: getattr(plan, name) for name in SIZES},
        "micro_batches": train.micro_batches,
        "recompute": train.recompute,
        "fits": layout.fits,
        "fits_always": layout.fits_always,
        "peak_bytes": layout.expected.peak,
        "step_seconds": layout.time.step,
    }


def detail(layout: Layout, outlook: Outlook) -> dict[str, Any]:
    """Everything about one layout."""
    return {
        **brief(layout),
        "memory": {
            load: {**memory.components(), "peak": memory.peak, "at": memory.fullest.name}
            for load in LOADS
            for memory in (layout.memory(load),)
        },
        "collectives": [
            {
                **asdict(each),
                "total": each.total,
                "seconds": seconds_of(each, layout.device, layout.assumed),
            }
            for each in collectives(layout.work, "balanced")
        ],
        "time": {**layout.time.parts(), "step": layout.time.step},
        "outlook": asdict(outlook),
    }
