"""What comes out: shapes, precision, known values, nothing that is not finite."""

import torch
from torch import Tensor

from turnout.conformance.properties.base import (
    NotAsked,
    Property,
    close,
    look,
    require,
    sums,
)
from turnout.conformance.samples import context, full, ragged, states
from turnout.conformance.subject import Seen, Setting, Subject, assigned, table
from turnout.moe.losses import BALANCE_FORMS, LossSums, load_balancing_loss


def shapes(subject: Subject) -> str:
    """Output like input; counts whole numbers, sums and weights float32."""
    layer = subject.layer(Setting(capacity=1.0)).eval()
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not subject.white_box:
            continue
        x = states(subject.d_model).to(dtype)
        seen = subject.see(layer, x, context(ragged()))
        require(seen.y.shape == x.shape, f"output {tuple(seen.y.shape)} for {tuple(x.shape)}")
        require(seen.y.dtype == dtype, f"output {seen.y.dtype} for {dtype}")
        for name, value in sums(seen).items():
            allowed = (torch.int64, torch.float32)
            require(value.dtype in allowed, f"{name} is {value.dtype}")
        if seen.decision is not None:
            require(seen.decision.weight.dtype == torch.float32, "weights are not float32")
    return "output as input, counts int64, sums float32"


def selective_precision(subject: Subject) -> str:
    """Decisions do not depend on the precision of what surrounds the router."""
    layer = subject.layer(Setting()).eval()
    # So many tokens that some are as near to a tie as a bfloat16 rounding.
    x, where = states(subject.d_model, 32, 64).to(torch.bfloat16), context(full(32, 64))
    wide = subject.see(layer, x.float(), where)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = subject.see(layer, x, where)
    assert wide.decision is not None and narrow.decision is not None
    moved = int((wide.decision.expert != narrow.decision.expert).sum())
    require(moved == 0, f"{moved} decisions change under bfloat16 autocast")
    gap = close(narrow.decision.weight, wide.decision.weight, "combine weight under bfloat16")
    return f"no decision changes under bfloat16 autocast; weights within {gap:.1g}"


def conserved_weights(subject: Subject) -> str:
    """A drop takes its own weight away and no other; outputs carry exactly the kept weights."""
    x, where = states(subject.d_model), context(ragged())
    for capacity in (None, 0.5):
        layer = subject.layer(Setting(capacity=capacity, identity=True))
        seen = subject.see(layer, x, where)
        assert seen.stats is not None and seen.decision is not None
        kept = table(seen.decision, seen.stats.kept.shape[1])
        given = torch.where(kept != 0, assigned(layer, x, where), 0.0)
        close(kept, given, "a kept weight after drops")
        total = kept.sum(1).view(*x.shape[:2], 1)
        close(seen.y, torch.where(where.mask.unsqueeze(-1), total * x, 0.0), "weight times input")
    return "kept weights are those that the router gave"


def known_losses(subject: Subject) -> str:
    """Zero logits: balance 1, router z-loss (ln E)^2 of a softmax over E."""
    layer = subject.layer(Setting()).eval()
    with torch.no_grad():
        for parameter in layer.router.parameters():  # type: ignore[union-attr]
            parameter.zero_()
    seen = subject.see(layer, states(subject.d_model), context(full()))
    assert seen.stats is not None
    router, experts = seen.stats.router, seen.stats.kept.shape[1]
    tokens = router.tokens.sum()
    close(router.probability.sum(), tokens.float(), "sum of the probabilities over the tokens")
    mean = router.probability.sum(0) / tokens
    if not torch.allclose(mean, torch.full_like(mean, 1 / experts), atol=1e-6):
        raise NotAsked("its probabilities are not uniform when its parameters are zero")
    active = int(router.assigned.sum()) / int(tokens)
    form = BALANCE_FORMS["deepseek"]
    value = float(
        load_balancing_loss(LossSums.of(seen.stats), choices=1, form=form).mean().detach()
    )
    require(abs(value / active - 1) < 1e-5, f"balance {value / active:.6f} at uniform routing")
    z = float(router.z.detach().sum() / tokens)
    known = subject.zero_z
    require(abs(z - known) <= 1e-5 * known, f"router z-loss {z:.6f}, not {known:.6f}, of zeros")
    return f"balance 1 at uniform probabilities, z-loss {z:.4f} of zero logits"


def finite(subject: Subject) -> str:
    """No NaN with one token, none, huge or tied logits, NaN in padding; nor in gradients."""
    for name, (x, mask) in _hostile(subject).items():
        if not (subject.pads or bool(mask.all())):
            continue
        for setting in (Setting(), Setting(capacity=0.5)):
            layer = subject.layer(setting)
            x = x.clone().requires_grad_()
            seen = subject.see(layer, x, context(mask))
            real = mask.unsqueeze(-1)
            values = {"output": torch.where(real, seen.y, 0.0), **sums(seen)}
            if subject.white_box:
                values["output of padding"] = seen.y
            _require_finite(values, name)
            total = torch.where(real, seen.y, 0.0).sum() + _float_total(seen)
            wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
            grads = torch.autograd.grad(total, wanted, allow_unused=True)
            found = [g for g in grads if g is not None]
            _require_finite({f"gradient {i}": grad for i, grad in enumerate(found)}, name)
    return "one token, none, ties, huge logits, NaN in padding: outputs, sums, gradients finite"


def _hostile(subject: Subject) -> dict[str, tuple[Tensor, Tensor]]:
    d = subject.d_model
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    padded = torch.where(ragged().unsqueeze(-1), states(d), torch.nan)
    return {
        "one token": (states(d, 1, 1), full(1, 1)),
        "no real token": (torch.full((2, 4, d), torch.nan), nothing),
        "tied logits": (torch.ones(2, 8, d), full(2, 8)),
        "zeros": (torch.zeros(2, 8, d), full(2, 8)),
        "huge logits": (1e4 * states(d), full()),
        "NaN in padding": (padded, ragged()),
    }


def _float_total(seen: Seen) -> Tensor:
    parts = [value.sum() for value in sums(seen).values() if value.is_floating_point()]
    return torch.stack([seen.y.new_zeros(()), *parts]).sum()


def _require_finite(values: dict[str, Tensor], where: str) -> None:
    for name, value in values.items():
        if value.is_floating_point():
            require(bool(torch.isfinite(value).all()), f"{name} is not finite with {where}")


def looked_at(subject: Subject) -> str:
    """Every live assignment is counted once, and probabilities are those of tokens."""
    seen = look(subject, Setting(capacity=0.5), training=True)
    assert seen.stats is not None
    stats, tokens = seen.stats, int(ragged().sum())
    require(int(stats.router.tokens.sum()) == tokens, "padding is counted among the tokens")
    most = stats.choices * tokens
    require(int(stats.router.assigned.sum()) <= most, f"over {most} assignments are counted")
    require(bool((stats.kept <= stats.router.assigned).all()), "more are kept than assigned")
    mass = float(stats.router.probability.detach().sum())
    require(mass <= tokens * (1 + 1e-5), f"probability {mass:.2f} of {tokens} tokens")
    return f"{tokens} real tokens of {ragged().numel()} counted"


NUMBERS = (
    Property("shapes and dtypes", shapes),
    Property("float32 inside", selective_precision, white_box=True),
    Property("counts", looked_at, white_box=True),
    Property("weights conserved", conserved_weights, white_box=True),
    Property("known losses", known_losses, white_box=True),
    Property("finite", finite),
)
