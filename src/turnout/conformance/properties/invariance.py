"""What must change nothing: order, batch mates, padding, the cut of a batch, evaluating again."""

from dataclasses import replace

import torch

from turnout.conformance.properties.base import (
    NotAsked,
    Property,
    close,
    require,
    same_sums,
    sums,
)
from turnout.conformance.samples import LENGTH, ROWS, context, full, part, ragged, shifted, states
from turnout.conformance.subject import Setting, Subject


def permutation(subject: Subject) -> str:
    """Tokens that change places, with all that is known of them, take their outputs along."""
    layer = subject.layer(Setting()).eval()
    x, where = states(subject.d_model), context(full())
    order = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(4))
    moved = replace(
        where,
        position=where.position[:, order],
        token_ids=None if where.token_ids is None else where.token_ids[:, order],
        previous_ids=None if where.previous_ids is None else where.previous_ids[:, order],
    )
    y = subject.see(layer, x, where).y
    gap = close(subject.see(layer, x[:, order], moved).y, y[:, order], "output of moved tokens")
    return f"outputs move with their tokens, within {gap:.1g}"


def batch_mates(subject: Subject) -> str:
    """In evaluation a row alone gets what it gets among others."""
    setting = Setting()
    if not subject.batch_invariant(setting):
        raise NotAsked("it declares that rows depend on each other")
    layer = subject.layer(setting).eval()
    x, where = states(subject.d_model), context(ragged() if subject.pads else full())
    together, worst = subject.see(layer, x, where), 0.0
    for row in range(ROWS):
        alone = subject.see(layer, *part(x, where, slice(row, row + 1)))
        real = where.mask[row]
        gap = close(alone.y[0][real], together.y[row][real], f"row {row} by itself")
        worst = max(worst, gap)
    return f"rows by themselves within {worst:.1g}"


def padding(subject: Subject) -> str:
    """Padding left, right or longer, full of NaN, moves no output, count or sum."""
    if not subject.pads:
        raise NotAsked("it takes no mask")
    settings = [Setting(), Setting(capacity=1.0), Setting(capacity=0.5)]
    for setting in settings:
        for training in (True, False):
            layer = subject.layer(setting).train(training)
            x, mask = states(subject.d_model), ragged()
            expected = subject.see(layer, x, context(mask))
            for name, left, right in (("left", 3, 0), ("right", 0, 5), ("both", 2, 7)):
                wide, padded = shifted(x, mask, left, right)
                layer = subject.layer(setting).train(training)
                seen = subject.see(layer, wide, context(padded))
                close(seen.y[padded], expected.y[mask], f"output with padding on the {name}")
                same_sums(sums(seen), sums(expected), f"with padding on the {name}")
    return "padding left, right and longer moves nothing"


def micro_batches(subject: Subject) -> str:
    """Sums of parts are the parts of the sums, in training; of a stranger, in evaluation."""
    for setting in (Setting(), Setting(capacity=0.5)):
        x, where = states(subject.d_model), context(ragged() if subject.pads else full())
        layer = subject.layer(setting).train(subject.white_box)
        expected = subject.see(layer, x, where)
        for size in (1, 2):
            parts = [
                subject.see(layer, *part(x, where, slice(row, row + size)))
                for row in range(0, ROWS, size)
            ]
            y = torch.cat([seen.y for seen in parts])
            close(y[where.mask], expected.y[where.mask], f"output in parts of {size} rows")
            joined = {
                name: torch.cat([sums(seen)[name] for seen in parts]) for name in sums(expected)
            }
            same_sums(joined, sums(expected), f"in parts of {size} rows")
    return "outputs and sums of 1, 2 and 4 rows a part are equal"


def evaluation(subject: Subject) -> str:
    """Evaluation is the same twice, whatever the keys and however far training is."""
    layer = subject.layer(Setting()).eval()
    x = states(subject.d_model)
    first = subject.see(layer, x, context(full()))
    for name, where in {
        "again": context(full()),
        "with other keys": context(full(), salt=99),
        "at the end of training": context(full(), progress=1.0),
    }.items():
        again = subject.see(layer, x, where)
        require(torch.equal(again.y, first.y), f"evaluation {name} gives another output")
    return "bit-equal twice, with other keys, at any progress"


def stateless(subject: Subject) -> str:
    """Training on the same rows with the same keys gives the same again: noise has no state."""
    x, where = states(subject.d_model), context(full())
    layer = subject.layer(Setting(capacity=1.0))
    first, again = subject.see(layer, x, where), subject.see(layer, x, where)
    require(torch.equal(first.y, again.y), "the same keys give other noise")
    same_sums(sums(again), sums(first), "the second time")
    return "the same keys give the same noise"


def untouched_input(subject: Subject) -> str:
    """The hidden states that are read are not written to, in training."""
    x = states(subject.d_model)
    kept = x.clone()
    seen = subject.see(subject.layer(Setting()), x, context(full()))
    require(torch.equal(x, kept) and not seen.overwritten, "the layer writes into its input")
    return "the input is left as it was"


def quiet_input(subject: Subject) -> str:
    """In training, experts read the hidden states themselves, not the router's noisy copy."""
    x = states(subject.d_model)
    seen = subject.see(subject.layer(Setting(identity=True)), x, context(full()))
    # With identity experts an output is a multiple of its input.
    scale = (seen.y * x).sum(2, keepdim=True) / (x * x).sum(2, keepdim=True)
    gap = close(seen.y, scale * x, "what experts read in training")
    return f"experts read their input, within {gap:.1g}"


INVARIANCE = (
    Property("permutation", permutation),
    Property("batch mates", batch_mates),
    Property("padding", padding),
    Property("micro-batches", micro_batches),
    Property("evaluation", evaluation),
    Property("stateless noise", stateless),
    Property("quiet input", quiet_input, white_box=True),
    Property("input left alone", untouched_input),
)
