"""Whether a run can be laid over ranks as its plan says: which number is wrong, and the valid ones.

Everything is known from the configuration, so that a wrong layout is refused before any process
is started or a weight is made.
"""

from math import gcd

from turnout.config.attention import AttentionConfig
from turnout.config.errors import ConfigError, require
from turnout.config.latent_attention import LatentAttention
from turnout.config.model import ModelConfig
from turnout.config.moe import MoEConfig
from turnout.config.parallel import ParallelPlan, divisors
from turnout.config.train import RunConfig, TrainConfig


def over_ranks(config: RunConfig, ranks: int) -> ParallelPlan:
    """The plan of a run that ``ranks`` ranks share, with all its sizes as numbers.

    Raises:
        ConfigError: the axes do not make up the ranks, or do not divide the model or the batch.
    """
    plan = config.parallel.over(ranks)
    require(
        plan.single or not config.train.compile,
        "train.compile",
        True,
        f"false on {ranks} ranks, whose collectives a compiled block cannot hold",
    )
    check_model(config.model, plan)
    check_rows(config.model.moe, config.train, plan)
    return plan


def check_model(model: ModelConfig, plan: ParallelPlan) -> None:
    """Raise ``ConfigError`` unless experts, heads and hidden widths divide by their axes."""
    _check_experts(model, plan.expert)
    if plan.tensor > 1:
        _check_widths(model, plan.tensor)


def check_rows(moe: MoEConfig | None, train: TrainConfig, plan: ParallelPlan) -> None:
    """Raise ``ConfigError`` unless every batch rank gets whole routing groups, as many as others.

    Evaluation may leave ranks with fewer rows.
    """
    group = 1 if moe is None else moe.group.rows
    ranks = plan.batch_ranks
    if train.batch_rows % (group * ranks):
        raise ConfigError(
            "train.batch_rows",
            train.batch_rows,
            f"a multiple of {group * ranks}, {group} rows for each of {ranks} batch ranks",
            f"such as {-(-train.batch_rows // (group * ranks)) * group * ranks}",
        )
    if train.micro_batch_rows % (group * ranks):
        valid = ", ".join(map(str, divisors(train.batch_rows // (group * ranks))))
        raise ConfigError(
            "train.micro_batches",
            train.micro_batches,
            f"one of {valid}",
            f"{train.micro_batch_rows} rows a micro-batch leave no whole routing groups for each "
            f"of {ranks} batch ranks",
        )


def _check_experts(model: ModelConfig, expert: int) -> None:
    if expert == 1:
        return
    moe = model.moe
    if moe is None:
        raise ConfigError("parallel.expert", expert, "1 where the model has no sparse layer")
    every = gcd(moe.num_experts, *moe.pyramid)
    require(
        every % expert == 0,
        "parallel.expert",
        expert,
        f"one of {_listed(every)}, which divide the experts of each layer "
        f"({', '.join(map(str, sorted({moe.num_experts, *moe.pyramid})))})",
    )
    require(
        moe.dispatcher == "sorted",
        "model.moe.dispatcher",
        moe.dispatcher,
        f"'sorted' where parallel.expert is above 1 ({expert})",
    )
    require(
        not moe.in_attention,
        "parallel.expert",
        expert,
        f"1 where experts project in attention (model.moe.attention = {moe.attention!r})",
    )


def _check_widths(model: ModelConfig, tensor: int) -> None:
    """Heads, hidden widths and, in sequence parallel, lengths; the layers of a stack are alike."""
    for stack in model.stacks():
        for name, size in _divided(stack.attention).items():
            _divides(tensor, f"model.attention.{name}", size)
        _divides(tensor, "model.feed_forward.d_ff", stack.feed_forward.d_ff)
        if stack.moe is not None:
            expert = stack.moe.expert_ffn(stack.feed_forward)
            _divides(tensor, "model.moe.expert.d_ff", expert.d_ff)
    moe = model.moe
    require(
        moe is None or not moe.in_attention,
        "parallel.tensor",
        tensor,
        "1 where experts project in attention (model.moe.attention)",
    )


def _divided(attention: AttentionConfig | LatentAttention) -> dict[str, int]:
    """What the ranks of a tensor axis share out."""
    if attention.kind == LatentAttention.kind:
        return {"num_heads": attention.num_heads}
    assert isinstance(attention, AttentionConfig)
    require(
        attention.qk_norm != "full",
        "parallel.tensor",
        "above 1",
        "1 with model.attention.qk_norm = 'full', a norm over all heads together",
    )
    return {"num_heads": attention.num_heads, "num_kv_heads": attention.kv_heads}


def _divides(tensor: int, name: str, size: int) -> None:
    require(
        size % tensor == 0,
        "parallel.tensor",
        tensor,
        f"a divisor of {name} ({size}): one of {_listed(size)}",
    )


def _listed(value: int) -> str:
    return ", ".join(map(str, divisors(value)))
