"""What the ranks of a tensor axis exchange: each computes with its heads and its hidden width.

Outputs of a network are summed on the way forward, gradients of its input on the way back. In
sequence parallel the sum becomes a sum and a share, and the input is gathered.
"""

from collections import Counter
from collections.abc import Iterator

from turnout.config.moe import MoEConfig
from turnout.plan.collective import Collective, Operation
from turnout.plan.work import FLOAT, StackWork, Work

Call = tuple[Operation, int]
"""An operation and its bytes."""


def widths(work: Work) -> Iterator[Collective]:
    """The collectives of one step over the tensor axis."""
    if work.plan.tensor == 1:
        return
    steps = work.config.train.micro_batches
    for part in work.stacks:
        counted: Counter[Call] = Counter()
        for moe, count in part.kinds:
            for call, number in _layer(work, part, moe).items():
                counted[call] += number * count * steps
        for call, number in _ends(work, part).items():
            counted[call] += number * steps
        for (operation, size), number in counted.items():
            what = f"{part.stack.name} activations"
            if size == _weights_of_choices(part):
                what = f"{part.stack.name} combine weights"
            yield Collective(what, operation, "tensor", work.plan.tensor, 1, number, size)


def _layer(work: Work, part: StackWork, moe: MoEConfig | None) -> Counter[Call]:
    """One layer of one micro-batch: every forward pass, and the backward one."""
    found: Counter[Call] = Counter()
    sparse = moe is not None and moe.in_feed_forward
    dense = 1 + part.stack.cross + (not sparse) + (sparse and moe is not None and moe.extra_ffn)
    inner = 0
    if sparse and moe is not None:
        inner = 1 + (moe.shared_experts > 0)
        found["all_reduce", _weights_of_choices(part)] += 1
        if work.plan.sequence:
            found["all_gather", _whole(work, part)] += work.passes + 1
    summed = _whole(work, part)
    found["all_reduce", summed] += inner * (work.passes + 1)
    # A layer that is computed again is so up to what the backward pass needs: not its last sum,
    # unless a sparse layer's sums or dropout's mask are made after it.
    ends_dense = not sparse or (moe is not None and moe.extra_ffn)
    last = work.config.train.recompute and ends_dense and not work.config.model.dropout
    if not work.plan.sequence:
        found["all_reduce", summed] += dense * (work.passes + 1) - last
        return found
    found["all_gather", summed] += dense * (work.passes + 1)
    found["reduce_scatter", summed] += dense * (work.passes + 1) - last
    return found


def _ends(work: Work, part: StackWork) -> Counter[Call]:
    """Around a stack: gradients of an encoder's states are those of all heads; in sequence
    parallel tokens are gathered for the last norm, and their gradients for the embedding."""
    found: Counter[Call] = Counter()
    if len(work.stacks) > 1 and part is work.stacks[0]:
        found["all_reduce", _whole(work, part)] += 1
    if work.plan.sequence:
        found["all_gather", _whole(work, part)] += 2 + work.counting
    return found


def _whole(work: Work, part: StackWork) -> int:
    """Bytes of [R, S, D]."""
    return part.tokens * part.stack.d_model * work.entry


def _weights_of_choices(part: StackWork) -> int:
    """Bytes of the combine weights of a sparse layer, float32, whose gradient is summed."""
    moe = part.stack.moe
    if moe is None:
        return 0
    return part.tokens * moe.router.candidates(moe.num_experts) * FLOAT
