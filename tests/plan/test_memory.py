"""Bytes of one rank by hand, and against what torch keeps for the backward pass."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.plan.cases import MODEL, RUN, over, trained
from turnout.config.attention import AttentionConfig
from turnout.config.latent_attention import LatentAttention
from turnout.config.model import DecoderOnlyConfig, EncoderDecoderConfig, ModelConfig
from turnout.config.moe import MoEConfig, Placement
from turnout.config.objective import CausalConfig, SpanConfig
from turnout.config.optimizers import AdafactorConfig, AdamWConfig, OptimizerConfig
from turnout.config.parallel import ParallelPlan, fsdp_sizes
from turnout.config.positions import RelativeBias
from turnout.config.routers import TopKRouter
from turnout.config.train import RunConfig
from turnout.data.batch import Batch, Stream
from turnout.models import head as head_module
from turnout.models.build import build
from turnout.models.head import Head
from turnout.objectives import build as build_objective
from turnout.plan import moments
from turnout.plan.activations import activations, largest_layer, made
from turnout.plan.memory import UPDATED, memory, state_bytes
from turnout.plan.weights import Weight, held
from turnout.plan.work import fullest, routed, work_of
from turnout.simulate.meter import Meter
from turnout.train.optim import build_optimizer


def test_state_by_hand() -> None:
    """Four ranks: 490 entries of 4 bytes; AdamW keeps two more of each, and a count a tensor."""
    found = memory(work_of(RUN, over(4, expert=2)), "balanced")
    assert found.weights == found.gradients == 1960
    # 8 tensors in the dense layer, 7 in the sparse one, 2 of experts, embedding and last norm
    assert found.optimiser == 2 * 1960 + 19 * 4
    # norms, router and what is around the layers, 168 entries, twice; of the largest layer's
    # matrices, 512, three
    assert found.gathered == 4 * (2 * 168 + 3 * 512)
    assert found.casts == 0  # float32
    assert found.update == 0  # AdamW is fused
    means = memory(
        work_of(replace(RUN, optimizer=AdafactorConfig()), over(4, expert=2)), "balanced"
    )
    assert means.update == 4 * 4 * 128  # the largest shard: one expert's matrix 8 x 16
    assert found.average == 0
    assert found.state == 1960 + 3996


def test_adafactor_keeps_means_of_rows_and_columns() -> None:
    optimizer = AdafactorConfig()
    whole, shards = over(1), over(4)
    wide = Weight("w", (256, 512))
    assert state_bytes(optimizer, held(wide, whole)) == (256 + 512) * 4
    # 64 rows of it: 64 means of rows, 512 of columns
    assert state_bytes(optimizer, held(wide, shards)) == (64 + 512) * 4
    assert state_bytes(optimizer, held(Weight("w", (64, 512)), whole)) == 64 * 512 * 4  # narrow
    assert state_bytes(optimizer, held(Weight("w", (256,)), whole)) == 256 * 4
    stacked = Weight("experts", (8, 256, 512), "experts")
    assert state_bytes(optimizer, held(stacked, over(4, expert=4))) == 2 * (256 + 512) * 4
    assert state_bytes(optimizer, held(Weight("experts", (8, 256), "experts"), whole)) == 8192


@pytest.mark.parametrize("config", (AdamWConfig(), AdafactorConfig()), ids=lambda c: c.kind)
def test_what_an_update_makes(config: OptimizerConfig) -> None:
    """Of a weight that is not factored: one that is takes less."""
    model = torch.nn.Linear(1000, 100, bias=False)
    optimizer = build_optimizer(config, model)
    model.weight.grad = torch.ones(100, 1000)
    optimizer.step()  # makes the state
    meter = Meter({})
    meter.live.rename([model.weight], "weights")
    with meter:
        optimizer.step()
    assert meter.live.most == pytest.approx((1 + UPDATED[config.kind]) * 400_000, rel=1e-3)


def test_activations_of_a_dense_and_a_sparse_layer_by_hand() -> None:
    """Two rows of 6 tokens: T = 12, D = 8, two heads of 4, F = 16, E = 4, float32."""
    found = made(work_of(trained(batch_rows=2, eval_rows=2), over(1)), "balanced")
    norm = 12 * (8 + 1) * 4  # what is normalised, the root
    out = 12 * 8 * 4  # what the next product reads; not that of the sparse layer, which selects
    assert found.norms == 5 * norm + 4 * out
    # queries, sums and their join; keys and values; logarithms of sums a head; the mask
    attention = 3 * 12 * 8 * 4 + 2 * 12 * 8 * 4 + 12 * 2 * 4 + 2 * 6 * 6 * 4
    assert found.attention == 2 * attention
    assert found.feed_forward == found.experts == 12 * 16 * 4  # ReLU keeps its result alone
    assert found.dispatch == 2 * 12 * 8 * 4  # rows there and back
    # a float32 copy, four tables of numbers, 33 bytes a token; 54 a choice; 12 an expert
    assert found.router == 12 * (8 * 4 + 4 * 4 * 4 + 33) + 12 * 54 + 4 * 12
    # ids; who may read whom; cosines and sines of two pairs; targets and whether they count
    assert found.inputs == 12 * 8 + 2 * 36 + 12 * 4 * 4 + 12 * 9
    assert found.head == 10 * 8 * 4  # the gradient of its weight


def test_recomputation_keeps_inputs_and_makes_one_layer_again() -> None:
    run = trained(batch_rows=2, eval_rows=2, recompute=True)
    work = work_of(run, over(1))
    whole, kept = made(work, "balanced"), activations(work, "balanced")
    # the last norm is no layer's
    around = whole.inputs + whole.head + 12 * 9 * 4 + 12 * 8 * 4
    assert kept.total == around + 2 * 12 * 8 * 4
    again = largest_layer(work, work.stacks[0], "balanced")
    assert again > (whole.total - around) / 2  # the sparse layer is the larger one
    assert again + kept.total < whole.total + 2 * 12 * 8 * 4
    assert memory(work, "balanced").activations == kept.total - kept.dispatch + again


def test_moments_by_hand() -> None:
    """Four ranks, two of them an expert axis, 12 tokens each; float32, one micro-batch."""
    work = work_of(RUN, over(4, expert=2))
    found = memory(work, "balanced")
    sizes = {each.name: each.size for each in found.moments}
    kept = found.activations + found.dispatch
    # Of a layer's matrices in one piece: 4 x 64 of attention with 2 x 128 of the network, or with
    # two experts of 2 x 128; what is wide has 168 entries.
    dense, sparse, wide = 512, 768, 4 * 168
    hidden, rows, table = 12 * 16 * 4, 12 * 8 * 4, 10 * 8 * 4
    norm = 12 * 9 * 4 + rows  # the last one, behind all layers
    # Weights and the buffer they came in, and what the ReLU has not yet let go.
    assert sizes["forward"] == kept - norm - table + wide + 2 * 4 * sparse + hidden
    # The scaled rows and their gradient, and a product for the latter beside the logits' gradient:
    # 12 rows are more than a table of 10.
    assert sizes["head"] == kept + wide + 2 * rows + 12 * 10 * 4 + rows
    # The layer in use and the next; gradients of half of its matrices, of its hidden rows before
    # and behind the ReLU, and of two times the rows.
    last = 4 * (sparse + dense) + 4 * sparse // 2 + 2 * hidden + 2 * rows
    assert sizes["last layer of the decoder"] == kept - norm + wide + last
    # Shards of all gradients but those of what is wide: 490 - 168 / 4 entries. What is left of
    # what was kept: masks, ids, rotations and targets, 468 bytes, and the table's gradient.
    behind = 4 * (490 - 42) + wide + 468 + table
    again = largest_layer(work, work.stacks[0], "balanced")
    assert sizes["first layer of the decoder"] == behind + again + last + 4 * sparse
    assert sizes["embedding of the decoder"] == behind + table
    assert sizes["scattering"] == 4 * (490 - 42) + 2 * wide
    assert sizes["norm"] == 1960 + 2 * 8 * 128  # a matrix of an expert and its squares, float64
    assert sizes["update"] == 1960  # gradients alone: AdamW makes nothing
    assert found.peak == found.state + max(sizes.values())
    assert found.fullest.name == "first layer of the decoder"


def test_gradients_of_earlier_micro_batches_are_there_from_the_start() -> None:
    one, two = (
        memory(work_of(trained(batch_rows=8 * parts, micro_batches=parts), over(4)), "balanced")
        for parts in (1, 2)
    )
    assert one.activations == two.activations
    before, after = ({m.name: m.size for m in found.moments} for found in (one, two))
    for name in ("forward", "head", "last layer of the decoder"):
        assert after[name] == before[name] + one.gradients
    assert after["update"] == before["update"]


@pytest.mark.parametrize("half", (False, True))
@pytest.mark.parametrize("chunk", (99, 1000, 10_000))
def test_what_the_head_makes(half: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1 token, where nearly 2 would fit, of 20 and of all 96."""
    assert moments.CHUNK == head_module.CHUNK_ELEMENTS
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(moments, "CHUNK", chunk)
    dtype = torch.bfloat16 if half else torch.float32
    train = replace(RUN.train, batch_rows=4, dtype="bfloat16" if half else "float32")
    work = work_of(replace(RUN, model=_decoder(), train=train), over(1))
    hidden = torch.zeros(4, 24, 32, dtype=dtype, requires_grad=True)
    weight = torch.zeros(50, 32, requires_grad=True)
    ids = torch.zeros(4, 24, dtype=torch.int64)
    meter = Meter({})
    meter.live.rename([hidden, weight, ids], "given")
    before = meter.live.most
    with meter:
        Head(weight).cross_entropy(hidden, ids, ids == 0)
    made = meter.live.most - before - weight.numel() * 4  # the gradient of the weight is kept
    assert moments.head_bytes(work) == pytest.approx(made, rel=0.1)


def test_an_embedding_of_two_stacks_has_its_gradient_when_both_are_done() -> None:
    """Until then the decoder's part waits: added to the head's where they are tied."""

    def sizes(tied: bool) -> dict[str, int]:
        run = replace(RUN, model=replace(TWO_STACKS, tied=tied), objective=SpanConfig())
        return {each.name: each.size for each in memory(work_of(run, over(1)), "balanced").moments}

    one, two = sizes(True), sizes(False)
    waits = {name for name in one if name.endswith("encoder")}
    assert len(waits) == 3
    table = 4 * 50 * 32
    weighs = {"norm", "update"}  # the head has a weight of its own
    for name in one:
        assert two[name] - one[name] == table * (name in waits | weighs)


def test_rows_of_the_experts() -> None:
    """Twelve tokens a rank, one choice, two expert ranks of two experts each."""
    work = work_of(RUN, over(4, expert=2))
    (part,) = work.stacks
    assert MODEL.moe is not None
    assert part.tokens == 12
    assert routed(work, part, MODEL.moe, "balanced") == 12
    # 24 draws over two ranks: 1 + sqrt(2 ln 2 / 2 / 12) = 1.2403; 12 x that, upwards
    assert routed(work, part, MODEL.moe, "expected") == 15
    # capacity round(1.25 x 6 / 4) = 2, at least 4, a row: 2 rows x 4 slots x 2 experts x 2 ranks
    # = 32, but 24 tokens are all there are
    assert routed(work, part, MODEL.moe, "worst") == 24
    tight = replace(MODEL.moe, train_capacity_factor=0.5, min_capacity=1)
    # round(0.75) = 1 slot a row: 2 rows x 1 x 2 x 2 = 8
    assert routed(work, part, tight, "worst") == 8
    assert routed(work, part, tight, "balanced") == 8


def test_the_fullest_of_many() -> None:
    assert fullest(100, 1) == fullest(0, 4) == 1.0
    assert fullest(8, 4) <= 4.0
    assert fullest(10**9, 64) == pytest.approx(1.0, abs=1e-2)
    torch.manual_seed(0)
    draws = torch.randint(64, (200, 6400)).sort(1).values
    counts = torch.stack([torch.bincount(row, minlength=64) for row in draws]).float()
    assert fullest(6400, 64) == pytest.approx(float(counts.max(1).values.mean()) / 100, rel=0.06)


@given(
    expert=st.sampled_from((1, 2, 4)),
    tensor=st.sampled_from((1, 2)),
    recompute=st.booleans(),
    dtype=st.sampled_from(("float32", "bfloat16")),
)
def test_more_shards_and_more_micro_batches_hold_no_more(
    expert: int, tensor: int, recompute: bool, dtype: str
) -> None:
    last: dict[int, int] = {}
    for fsdp in fsdp_sizes(8 // expert, expert):
        plan = ParallelPlan(8 // expert, fsdp, expert, tensor)
        peaks = []
        for parts in (1, 2, 4):
            run = trained(batch_rows=32, micro_batches=parts, recompute=recompute, dtype=dtype)
            found = memory(work_of(run, plan), "worst")
            assert found.state == found.weights + found.optimiser + found.average
            peaks.append(found.activations + found.dispatch)
            assert found.state <= last.get(parts, found.state)
            last[parts] = found.state
            for load in ("balanced", "expected"):
                assert memory(work_of(run, plan), load).peak <= found.peak  # type: ignore[arg-type]
        assert peaks == sorted(peaks, reverse=True)


def _stream(rows: int, length: int) -> Stream:
    ids = torch.randint(1, 50, (rows, length))
    ones = torch.ones_like(ids)
    return Stream(ids, ones.bool(), ones, torch.arange(length).expand(rows, length).contiguous())


class _Alive(TorchDispatchMode):
    """Remembers every storage that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def bytes(self) -> int:
        """Of those that are still there."""
        return sum(size for reference, size in self.made.values() if not reference.expired())


def _kept(run: RunConfig, dtype: torch.dtype) -> int:
    """Bytes that a forward pass leaves for the backward pass, beside weights and batch."""
    model = build(run.model, dtype=dtype, recompute=run.train.recompute)
    model.init_weights(0)
    model.train()
    rows = run.train.batch_rows
    shape = run.model
    encoder = _stream(rows, 20) if isinstance(shape, EncoderDecoderConfig) else None
    decoder = _stream(rows, 12 if encoder is not None else 24)
    row = torch.arange(rows)
    batch = Batch(decoder, decoder.ids, decoder.mask, row, row, encoder)
    objective = build_objective(run.losses, run.model)
    totals = objective.totals([batch])
    with _Alive() as alive:
        report = objective(model, batch, totals, None)
    tensors = (t for t in (*tree_leaves(batch), *model.parameters()) if torch.is_tensor(t))
    places = {t.untyped_storage().data_ptr() for t in tensors}
    given = sum(alive.made[at][1] for at in places if at in alive.made)
    assert report.total.requires_grad
    return alive.bytes() - given


def _decoder(**changes: object) -> DecoderOnlyConfig:
    shape = replace(
        MODEL,
        vocab_size=50,
        d_model=32,
        num_layers=4,
        length=24,
        attention=AttentionConfig(4, 8, num_kv_heads=2),
    )
    feed_forward = replace(shape.feed_forward, d_ff=56)
    return replace(shape, **{"feed_forward": feed_forward, **changes})  # type: ignore[arg-type]


TWO_STACKS = EncoderDecoderConfig(
    vocab_size=50,
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    attention=AttentionConfig(4, 8),
    feed_forward=_decoder().feed_forward,
    moe=MoEConfig(8, placement=Placement(1)),
    encoder_length=20,
    decoder_length=12,
)
TOP2 = MoEConfig(8, router=TopKRouter(2), train_capacity_factor=None)
CASES: dict[str, tuple[ModelConfig, bool]] = {
    "dense": (_decoder(moe=None), False),
    "gated, norms of heads": (
        _decoder(
            feed_forward=replace(_decoder().feed_forward, activation="swiglu"),
            attention=AttentionConfig(4, 8, num_kv_heads=2, qk_norm="head"),
        ),
        False,
    ),
    "top-2, half precision": (_decoder(moe=TOP2), True),
    "shared experts, another network behind": (
        _decoder(moe=replace(TOP2, shared_experts=1, extra_ffn=True)),
        False,
    ),
    "learned bias a layer, dropout": (
        _decoder(positions=RelativeBias(per_layer=True), dropout=0.1),
        False,
    ),
    "learned bias a layer": (
        _decoder(positions=RelativeBias(per_layer=True), attention=AttentionConfig(4, 8)),
        False,
    ),
    "learned bias, groups of heads": (_decoder(positions=RelativeBias()), False),
    "mean and variance": (_decoder(norm="layer"), False),
    "mean and variance, half precision": (_decoder(norm="layer"), True),
    "dropout": (_decoder(dropout=0.1), False),
    "dropout, half precision": (_decoder(dropout=0.1, moe=TOP2), True),
    "dropout, latent attention": (
        _decoder(dropout=0.1, attention=LatentAttention(4, 16, 8, 4, 6), moe=None),
        False,
    ),
    "encoder and decoder, dropout": (replace(TWO_STACKS, dropout=0.1), False),
    "encoder and decoder, dropout, half precision": (replace(TWO_STACKS, dropout=0.1), True),
    "encoder and decoder": (TWO_STACKS, False),
    "encoder and decoder, half precision": (TWO_STACKS, True),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recompute", (False, True))
def test_activations_are_what_autograd_keeps(case: str, recompute: bool) -> None:
    """To 3%; with recomputation what is around the layers weighs more, here: to 10%."""
    model, half = CASES[case]
    objective = SpanConfig() if model.kind == EncoderDecoderConfig.kind else CausalConfig()
    train = replace(
        RUN.train, batch_rows=4, recompute=recompute, dtype="bfloat16" if half else "float32"
    )
    run = RunConfig(model=model, objective=objective, train=train)
    work = work_of(run, over(1))
    planned = activations(work, "balanced").total
    if half and not recompute:  # copies in half precision are kept too
        planned += memory(work, "balanced").casts
    real = _kept(run, torch.bfloat16 if half else torch.float32)
    assert planned == pytest.approx(real, rel=0.1 if recompute else 0.03)
