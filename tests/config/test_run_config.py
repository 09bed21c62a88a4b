"""What a run refuses before anything is built."""

import subprocess
import sys
from dataclasses import replace

import pytest

from turnout.config.attention import AttentionConfig
from turnout.config.errors import ConfigError
from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.initialisation import NormalInit
from turnout.config.losses import LossConfig
from turnout.config.mixture import MixtureConfig, SourceConfig
from turnout.config.model import DecoderOnlyConfig
from turnout.config.moe import DocumentGroup, Placement, RowsGroup
from turnout.config.optimizers import AdafactorConfig, AdamWConfig
from turnout.config.positions import RelativeBias, Rotary
from turnout.config.presets import run
from turnout.config.routers import LabelRouter, MultiGateRouter, RouterConfig, TaskRouter
from turnout.config.schedules import Cosine, InverseSqrt
from turnout.config.train import CausalConfig, RunConfig, SpanConfig, TrainConfig


def grouped(rows: int, train: TrainConfig) -> RunConfig:
    config = run("switch_demo")
    moe = replace(config.model.moe, group=RowsGroup(rows))
    return replace(config, model=replace(config.model, moe=moe), train=train)


@pytest.mark.parametrize(
    ("rows", "train", "message"),
    [
        (
            4,
            # 32 rows in 16 parts are 2 rows a part; 8 groups go in 1, 2, 4 or 8 parts
            TrainConfig(batch_rows=32, micro_batches=16),
            "train.micro_batches = 16: must be one of 1, 2, 4, 8; "
            "2 rows a micro-batch cut a routing group of 4 rows",
        ),
        (
            5,
            TrainConfig(batch_rows=32),
            "train.batch_rows = 32: must be a multiple of model.moe.group.rows (5); "
            "a routing group is never cut",
        ),
        (
            4,
            TrainConfig(batch_rows=32, eval_rows=30),
            "train.eval_rows = 30: must be a multiple of model.moe.group.rows (4); "
            "a routing group is never cut",
        ),
    ],
)
def test_a_routing_group_is_never_cut(rows: int, train: TrainConfig, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        grouped(rows, train)
    assert str(error.value) == message


def test_whole_groups_pass() -> None:
    assert grouped(4, TrainConfig(batch_rows=32, micro_batches=8)).train.micro_batch_rows == 4
    config = run("switch_demo")
    moe = replace(config.model.moe, group=DocumentGroup())
    model = replace(config.model, moe=moe)
    train = TrainConfig(batch_rows=3, micro_batches=3, eval_rows=1)
    assert replace(config, model=model, train=train).train.micro_batch_rows == 1


def test_objective_and_model_belong_together() -> None:
    with pytest.raises(ConfigError) as error:
        replace(run("switch_demo"), objective=SpanConfig())
    assert str(error.value).startswith(
        "objective.kind = 'span': must be one of causal, prefix, text_to_text "
        "with model.kind = 'decoder_only'; "
    )
    with pytest.raises(ConfigError, match=r"must be one of span, .* with model\.kind = 'enc"):
        replace(run("t5_base"), objective=CausalConfig())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: AttentionConfig(12, 64, num_kv_heads=5),
            "attention.num_kv_heads = 5: must be a divisor of attention.num_heads (12)",
        ),
        (
            lambda: AttentionConfig(2, 4, window=0),
            "attention.window = 0: must be at least 1",
        ),
        (
            lambda: AttentionConfig(2, 4, window=8, window_pattern=(False,)),
            "attention.window_pattern = [False]: must be a list with true for the layers that have "
            "the window",
        ),
        (
            lambda: AttentionConfig(2, 4, window_pattern=(True, False)),
            "attention.window_pattern = [True, False]: must be left out without attention.window",
        ),
        (
            lambda: DecoderOnlyConfig(
                9,
                8,
                1,
                AttentionConfig(2, 4, window=8, window_pattern=(True, False)),
                FeedForwardConfig(8),
            ),
            "model.attention.window_pattern = [True, False]: must be no longer than the model's "
            "layers (1)",
        ),
        (
            lambda: replace(run("t5_base").model, attention=AttentionConfig(2, 4, window=8)),
            "model.attention.window = 8: must be none in an encoder_decoder, whose encoder reads "
            "both ways",
        ),
        (
            lambda: DecoderOnlyConfig(9, 8, 1, AttentionConfig(2, 3), FeedForwardConfig(8)),
            "model.attention.head_dim = 3: must be even with rotary positions",
        ),
        (
            lambda: TrainConfig(batch_rows=32, micro_batches=5),
            "train.micro_batches = 5: must be a divisor of train.batch_rows (32)",
        ),
        (lambda: TrainConfig(steps=0), "train.steps = 0: must be at least 1"),
        (lambda: TrainConfig(clip_norm=-1.0), "train.clip_norm = -1.0: must be at least 0"),
        (lambda: TrainConfig(threads=-1), "train.threads = -1: must be in 0 .. 1024"),
        (lambda: LossConfig(balance=-0.1), "losses.balance = -0.1: must be at least 0"),
        (lambda: LossConfig(load=float("inf")), "losses.load = inf: must be at least 0"),
        (lambda: AdamWConfig(0.0), "optimizer.learning_rate = 0.0: must be above 0"),
        (lambda: AdamWConfig(beta2=1.0), "optimizer.beta2 = 1.0: must be in [0, 1)"),
        (
            lambda: AdafactorConfig(float("nan")),
            "optimizer.learning_rate = nan: must be above 0",
        ),
        (lambda: Cosine(floor=2.0), "schedule.floor = 2.0: must be in [0, 1]"),
        (lambda: InverseSqrt(warmup=0), "schedule.warmup = 0: must be at least 1"),
        (
            lambda: SpanConfig(noise_density=1.0),
            "objective.noise_density = 1.0: must be in (0, 1)",
        ),
        (
            lambda: SpanConfig(mean_span=float("inf")),
            "objective.mean_span = inf: must be at least 1",
        ),
        (lambda: NormalInit(0.0), "initialisation.std = 0.0: must be above 0"),
        (lambda: Rotary(1.0), "positions.theta = 1.0: must be above 1"),
        (
            lambda: RelativeBias(max_distance=16),
            "positions.max_distance = 16: must be above half of positions.num_buckets (16)",
        ),
    ],
)
def test_refusals(build: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build()
    assert str(error.value) == message


def test_a_sparse_model_has_a_sparse_layer() -> None:
    # 4 layers, counted from 0: with step 5 none is the last of five
    config = run("switch_demo")
    moe = replace(config.model.moe, placement=Placement(5))
    with pytest.raises(ConfigError) as error:
        replace(config.model, moe=moe)
    assert str(error.value) == (
        "model.moe.placement = 'step 5, first 0': must be such that one of the 4 layers is sparse; "
        "lower them, or set model.moe to none"
    )


@pytest.mark.parametrize("out", ["", "runs/{name}", "runs/{", "{preset.__class__}"])
def test_the_folder_has_one_name_in_braces(out: str) -> None:
    with pytest.raises(ConfigError, match="must be the path of a folder"):
        replace(run("switch_demo"), out=out)


def test_no_torch_and_no_numpy() -> None:
    code = (
        "import sys, turnout.config, turnout.config.io, turnout.config.presets as p;"
        "[p.run(n).model.num_params() for n in p.PRESETS];"
        "print([m for m in ('torch', 'numpy', 'jaxtyping') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.stdout.strip(), found.stderr) == ("[]", "")


def labelled(router: RouterConfig, sources: int, *, decoder: bool = False) -> RunConfig:
    config = run("switch_demo")
    moe = config.model.moe
    assert moe is not None
    routers = {"decoder_router": router} if decoder else {"router": router}
    named = tuple(SourceConfig(f"s{n}") for n in range(sources))
    data = replace(config.data, mixture=MixtureConfig(named) if named else None)
    return replace(config, model=replace(config.model, moe=replace(moe, **routers)), data=data)


@pytest.mark.parametrize(
    ("router", "field"),
    [(LabelRouter(2), "labels"), (TaskRouter(2), "tasks"), (MultiGateRouter(2), "tasks")],
)
@pytest.mark.parametrize("decoder", [False, True])
def test_labels_are_the_sources_of_a_mixture(
    router: RouterConfig, field: str, decoder: bool
) -> None:
    name = "decoder_router" if decoder else "router"
    for sources in (1, 2):
        assert labelled(router, sources, decoder=decoder).data.mixture is not None
    with pytest.raises(ConfigError) as error:
        labelled(router, 3, decoder=decoder)
    assert str(error.value) == (
        f"model.moe.{name}.{field} = 2: must be at least 3, the sources of data.mixture"
    )
    with pytest.raises(ConfigError) as error:
        labelled(router, 0, decoder=decoder)
    assert str(error.value) == (
        f"data.mixture = None: must be given where model.moe.{name}.kind is {router.kind!r}; the "
        "labels that this router reads are the sources of a mixture"
    )
