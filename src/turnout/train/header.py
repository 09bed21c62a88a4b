"""What is on in a run, printed before the first step: nothing is silently on or off."""

import torch

from turnout.config import io
from turnout.config.losses import LossConfig
from turnout.config.moe import MoEConfig
from turnout.config.train import RunConfig
from turnout.models.base import Model
from turnout.train.session import Session
from turnout.train.zero_gradient import ROUTER_TERMS, trainable_router


def run_header(session: Session) -> tuple[str, ...]:
    """The header's lines: model, data, losses, sparse layers, optimiser, hardware."""
    config, model = session.config, session.state.model
    train, optimizer = config.train, config.optimizer
    return (
        f"run        {config.preset} ({config.objective.kind}), "
        + (
            f"from step {session.state.step} to {train.steps}"
            if session.state.step
            else f"{train.steps} steps"
        )
        + f" of {train.batch_rows} rows in {train.micro_batches} micro-batch"
        + ("es" if train.micro_batches > 1 else ""),
        f"model      {config.model.kind}: {config.model.num_params():,} parameters, "
        f"{config.model.num_active_params():,} active a token",
        f"data       {session.data.summary.text()}",
        *_start_lines(session),
        f"losses     {loss_line(config.losses, model)}",
        *_sparse_lines(session),
        *_adapter_lines(session),
        f"optimiser  {optimizer.kind}, learning rate {optimizer.learning_rate:g} (router x "
        f"{optimizer.router_rate:g}, experts x {optimizer.expert_rate:g}), schedule "
        f"{config.schedule.kind}, expert gradients {train.expert_gradient}, clipping "
        + (f"at norm {train.clip_norm:g}" if train.clip_norm > 0 else "OFF"),
        f"computing  {str(session.dtype).removeprefix('torch.')} ({session.dtype_reason}), "
        f"{torch.get_num_threads()} threads, dropout "
        + (f"{config.model.dropout:g}" if config.model.dropout else "OFF")
        + f", recomputation {_on(train.recompute)}, compiled blocks {_on(train.compile)}",
        *_rank_lines(session),
        *_watch_lines(config),
    )


def _start_lines(session: Session) -> tuple[str, ...]:
    """Where the weights come from, and which of them train, where that is not all of them."""
    begun, trained = session.begun, session.trained
    found: tuple[str, ...] = (f"start      {begun.line}",) if begun.path else ()
    asked = session.config.distillation
    if asked is not None:
        until = f", until {asked.until:.0%} of the run" if asked.until < 1 else ""
        kept = f", its {asked.top} most probable tokens from the cache" if asked.top else ""
        found += (
            f"teacher    {asked.teacher}: {asked.soft:g} of the language loss at temperature "
            f"{asked.temperature:g}{until}{kept}",
        )
    if session.adapted is not None or all(t == size for _, size, t in trained.parts):
        return found
    parts = (
        f"{part} {trains:,} of {size:,}" if trains else f"{part} OFF (frozen)"
        for part, size, trains in trained.parts
    )
    return (*found, f"trained    {', '.join(session.config.train.trained)}: {'; '.join(parts)}")


def _rank_lines(session: Session) -> tuple[str, ...]:
    """How the model is laid over several ranks."""
    ranks = session.state.ranks.size
    if ranks == 1:
        return ()
    plan = session.config.parallel.over(ranks)
    shared = "tokens between networks shared out" if plan.sequence else "tokens whole"
    return (
        f"ranks      {ranks}: data {plan.data} x expert {plan.expert} x tensor {plan.tensor}; "
        f"dense weights in {plan.dense_shards} shards, each rank's experts in "
        f"{plan.expert_fsdp}; {shared}; wire dtype {plan.wire}",
    )


def _watch_lines(config: RunConfig) -> tuple[str, ...]:
    """What guards the run, and what it keeps."""
    train, guards, alarms = config.train, config.guards, config.alarms
    average = f"average of the weights {train.average:g}" if train.average else "average OFF"
    return (
        f"guards     bad steps are skipped, {guards.max_skipped} in a row roll back, at most "
        f"{guards.max_rollbacks} times; alarms {_on(alarms.on)}, acting {_on(alarms.act)}",
        f"keeping    the two last checkpoints and the best, every {train.save_every} steps; "
        f"{average}; patience " + (f"{train.patience} evaluations" if train.patience else "OFF"),
    )


def loss_line(losses: LossConfig, model: Model) -> str:
    """Every term with its coefficient, or OFF and why."""
    parts = ["language 1"]
    sparse = model.sparse_layers()
    still = bool(sparse) and not trainable_router(model)
    fixed = not any(list(layer.router.parameters()) for layer in sparse.values())
    for name in ROUTER_TERMS:
        coefficient = getattr(losses, name)
        if coefficient and not sparse:
            parts.append(f"{name} OFF (no sparse layer)")
        elif coefficient and fixed:
            parts.append(f"{name} OFF (the router is fixed)")
        elif coefficient and still:  # it still moves what the router reads
            parts.append(f"{name} {coefficient:g} (the router is frozen)")
        else:
            parts.append(f"{name} {coefficient:g}" if coefficient else f"{name} OFF")
    parts.append(f"head_z {losses.head_z:g}" if losses.head_z else "head_z OFF")
    if not sparse:
        return ", ".join(parts)
    over = {"sum": "summed over", "mean": "averaged over"}[losses.layers]
    stale = ", one step stale" if losses.scope == "previous" else ""
    return (
        f"{', '.join(parts)}; balance in the {losses.balance_variant} form, scope {losses.scope}"
        f"{stale}, {over} {len(sparse)} sparse layers"
    )


def _sparse_lines(session: Session) -> tuple[str, ...]:
    model = session.state.model
    layers = list(model.sparse_layers().items())
    if not layers or model.config.moe is None:
        return ("experts    none: a dense model",)
    moe = model.config.moe
    plan = session.config.parallel.over(session.state.ranks.size)
    dispatcher = "all_to_all" if plan.expert > 1 else moe.dispatcher
    return (
        f"experts    {_experts(moe)} of {', '.join(name for name, _ in layers)}; router "
        f"{_routers(moe)}",
        f"           group {_fields(moe.group)}, priority {moe.priority}, expert dropout "
        f"{moe.expert_dropout:g}, weights after drops {_on(moe.weights_after_drops)}, dispatcher "
        f"{dispatcher}, product {moe.product} ({session.product_reason})",
        f"capacity   {_slots(session, training=True)} in training "
        f"(factor {_factor(moe.train_capacity_factor)}), {_slots(session, training=False)} in "
        f"evaluation; causal {_yes(all(layer.causal for _, layer in layers))}, "
        f"batch-invariant {_yes(all(layer.batch_invariant for _, layer in layers))}",
    )


def _adapter_lines(session: Session) -> tuple[str, ...]:
    """Every matrix that has an adapter; nothing else trains then."""
    lora = session.config.lora
    if lora is None or session.adapted is None:
        return ()
    first, *names = session.adapted.lines()
    dropout = f"{lora.dropout:g}" if lora.dropout else "OFF"
    return (
        f"adapters   {first}; alpha {lora.alpha:g}, dropout {dropout}",
        *(f"           {name}" for name in names),
    )


def _fields(config: object) -> str:
    """A configuration's kind and fields: ``top2 (second random, .., exploration argmax)``."""
    table = io.to_dict(config)
    kind = table.pop("kind")
    parts = [f"{name} {value}" for name, value in io.flat(table)]
    return f"{kind} ({', '.join(parts)})" if parts else str(kind)


def _experts(moe: MoEConfig) -> str:
    if not moe.pyramid:
        return f"{moe.num_experts} in each"
    return f"{', '.join(map(str, moe.pyramid))} in the sparse layers"


def _routers(moe: MoEConfig) -> str:
    """The router, and the decoder's where it has one of its own."""
    if moe.decoder_router is None:
        return _fields(moe.router)
    return f"{_fields(moe.router)}, in decoders {_fields(moe.decoder_router)}"


def _slots(session: Session, *, training: bool) -> str:
    """Slots of an expert in a routing group, of each stack: their groups differ in size."""
    found = {
        name.split(".")[0]: layer.capacity.train if training else layer.capacity.evaluation
        for name, layer in session.state.model.sparse_layers().items()
    }
    if None in found.values():
        return "dropless"
    each = ", ".join(f"{slots} ({stack})" for stack, slots in found.items())
    return f"{each} slots an expert and group"


def _factor(factor: float | None) -> str:
    return "none" if factor is None else f"{factor:g}"


def _on(value: bool) -> str:
    return "ON" if value else "OFF"


def _yes(value: bool) -> str:
    return "yes" if value else "NO"
