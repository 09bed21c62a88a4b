"""Configurations and modules agree on parameters; configurations and torch on arithmetic."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.models.cases import CASES, DENSE, SPARSE, batch_for
from turnout.config.errors import ConfigError
from turnout.config.model import ModelConfig
from turnout.config.presets import PRESETS
from turnout.models import build

FORMS = [(name, kind) for name, preset in PRESETS.items() for kind in preset.objectives]


def size(config: ModelConfig) -> int:
    return sum(p.numel() for p in build(config, device="meta").parameters())


@pytest.mark.parametrize(("name", "kind"), FORMS, ids=["-".join(form) for form in FORMS])
def test_every_preset_has_the_parameters_it_says(name: str, kind: str) -> None:
    config = PRESETS[name].build(kind).model
    assert size(config) == config.num_params()
    if config.moe is not None:
        assert size(config.dense_twin()) == config.dense_twin().num_params()


@pytest.mark.parametrize("name", CASES)
def test_every_small_case_has_the_parameters_it_says(name: str) -> None:
    assert size(CASES[name]) == CASES[name].num_params()


@pytest.mark.parametrize("name", CASES)
def test_arithmetic_is_what_torch_counts(name: str) -> None:
    config = CASES[name]
    model = build(config)
    model.init_weights(0)
    batch = batch_for(config, [16, 16], [16, 16])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model.eval()(batch)
        output.head.logits(output.hidden)
    counted = counter.get_total_flops()
    lengths = (16, 16) if config.kind == "encoder_decoder" else (16,)
    assert config.flops(2, *lengths) == pytest.approx(counted, rel=0.01)


def test_names_of_sparse_layers() -> None:
    names = {
        name: list(build(config, device="meta").sparse_layers()) for name, config in SPARSE.items()
    }
    assert names == {
        "olmoe": ["decoder.1.moe"],
        "sparse_glam": ["decoder.1.moe"],
        "switch": ["encoder.1.moe", "decoder.1.moe"],
        "st_moe": ["encoder.1.moe", "decoder.1.moe"],
        "nllb": ["encoder.1.moe", "decoder.1.moe"],
        "gpt_oss": ["decoder.1.moe"],
        "deepseek": ["decoder.1.moe"],
        "attention": [
            f"{stack}.1.{part}"
            for stack in ("encoder", "decoder")
            for part in ("attention.query", "attention.key_value", "moe")
        ],
        "attention_only": ["decoder.1.attention.query", "decoder.1.attention.key_value"],
    }
    assert all(not build(config, device="meta").sparse_layers() for config in DENSE.values())


def test_tied_weights_have_one_name() -> None:
    tied = build(CASES["t5"], device="meta").state_dict()
    untied = build(CASES["st_moe"], device="meta").state_dict()
    assert "head.weight" not in tied
    assert untied["head.weight"].shape == untied["embedding.weight"].shape


def test_parameters_are_float32_whatever_the_compute_dtype() -> None:
    model = build(CASES["olmoe"], dtype=torch.bfloat16)
    model.init_weights(0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    output = model(batch_for(CASES["olmoe"], [4], [4]))
    assert output.hidden.dtype == torch.bfloat16
    assert output.head.logits(output.hidden).dtype == torch.float32


def test_a_decoder_refuses_routing_that_reads_the_future() -> None:
    moe = CASES["olmoe"].moe
    assert moe is not None
    late = replace(moe, priority="choice", train_capacity_factor=1.0)
    with pytest.raises(ConfigError, match="allow_future_routing"):
        build(replace(CASES["olmoe"], moe=late), device="meta")
