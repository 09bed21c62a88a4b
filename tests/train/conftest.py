"""A small folder of text and tiny runs over it, for tests that train."""

from dataclasses import replace
from pathlib import Path

import pytest

from turnout.config import presets
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.train import DataConfig, RunConfig


@pytest.fixture(params=["causal", "span"])
def tiny_run(request: pytest.FixtureRequest, text_folder: Path) -> RunConfig:
    """Width 32, 2 layers (or 2 + 2), 4 experts, dropout on, float32, one thread, 6 steps."""
    run = presets.run("switch_tiny", request.param)
    model = run.model
    attention = replace(model.attention, num_heads=2, head_dim=16)
    moe = replace(model.moe, num_experts=4)
    common = {
        "d_model": 32,
        "attention": attention,
        "feed_forward": FeedForwardConfig(64),
        "moe": moe,
        "dropout": 0.1,
    }
    if request.param == "causal":
        small = replace(model, num_layers=2, length=32, **common)
    else:
        small = replace(model, encoder_length=48, decoder_length=16, **common)
    train = replace(
        run.train, steps=6, batch_rows=4, micro_batches=2, eval_rows=4, save_every=3, eval_every=3
    )
    train = replace(train, dtype="float32", threads=1)
    data = DataConfig(paths=(str(text_folder),), validation_share=0.2)
    return replace(run, model=small, train=train, data=data)
