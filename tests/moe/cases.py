"""Small layers and inputs that many tests share."""

from dataclasses import replace

import torch
from torch import Tensor

from turnout.config.feed_forward import FeedForwardConfig
from turnout.config.moe import MoEConfig
from turnout.config.routers import (
    BaseRouter,
    DenseToSparseRouter,
    DSelectKRouter,
    ExpertChoiceRouter,
    ForcedRouter,
    HashRouter,
    HierarchicalRouter,
    InputDropout,
    InputJitter,
    LabelRouter,
    MultiGateRouter,
    NoisyTopKRouter,
    NoTokenLeftBehindRouter,
    NullExpertsRouter,
    PrototypesRouter,
    ReinforceRouter,
    RouterConfig,
    SampledSoftmax,
    SentenceRouter,
    SigmoidTopKRouter,
    SinkhornRouter,
    SwitchRouter,
    TaskRouter,
    ThorRouter,
    Top2Router,
    TopKRouter,
    TopPRouter,
)
from turnout.moe import MoELayer, RoutingContext, build_layer

ROUTERS: dict[str, RouterConfig] = {
    "switch": SwitchRouter(),
    "switch_jitter": SwitchRouter(InputJitter(0.1)),
    "switch_dropout": SwitchRouter(InputDropout(0.1)),
    "switch_sampled": SwitchRouter(SampledSoftmax()),
    "top_1": TopKRouter(1, "raw"),
    "top_2_raw": TopKRouter(2, "raw"),
    "top_2": TopKRouter(2, "renormalised"),
    "top_4_selected": TopKRouter(4, "softmax_of_selected"),
    "top_2_groups": TopKRouter(2, "raw", expert_groups=2, groups_kept=1, scale=2.5),
    "top_2_bias": TopKRouter(2, "softmax_of_selected", bias=True),
    "noisy_top_2": NoisyTopKRouter(2),
    "top2_random": Top2Router(threshold=0.6),
    "ntlb": NoTokenLeftBehindRouter(3),
    "reinforce": ReinforceRouter(),
    "sigmoid_top_2": SigmoidTopKRouter(2, expert_groups=2, groups_kept=1, scale=2.5),
    "prototypes": PrototypesRouter(2),
    "top_p": TopPRouter(0.6, 3, "renormalised"),
    # One null for two choices: every token has a true expert, as tests of all routers expect.
    "null_experts": NullExpertsRouter(2, nulls=1, budget=1.5),
    "dense_to_sparse": DenseToSparseRouter(),
    # With steps of width 1 some gradients of the invariance tests are differences of large parts,
    # of which rounding alone is 1.3e-5.
    "dselect_2": DSelectKRouter(2, width=2.0),
    "hash_bigram": HashRouter("bigram", buckets=32),
    "label": LabelRouter(2),
    "task": TaskRouter(2, k=2),
    "sentence": SentenceRouter(2),
    "multi_gate": MultiGateRouter(2, k=2),
    "thor_2": ThorRouter(2),
    "forced_zipf": ForcedRouter("zipf", k=2),
    "hierarchical": HierarchicalRouter(2),
    "expert_choice": ExpertChoiceRouter(2),
    "expert_choice_capped": ExpertChoiceRouter(1, cap=2),
    "base": BaseRouter(),
    "sinkhorn": SinkhornRouter(),
}
VOCABULARY = 40


def small_layer(
    router: RouterConfig | None = None,
    *,
    num_experts: int = 4,
    d_model: int = 8,
    d_ff: int = 16,
    group_tokens: int = 8,
    seed: int = 0,
    feed_forward: FeedForwardConfig | None = None,
    **fields: object,
) -> MoELayer:
    """A layer with decided routers (unit logits), so that experts get unequal loads."""
    settings: dict[str, object] = {
        "train_capacity_factor": None,
        "eval_capacity_factor": None,
        "min_capacity": 1,
        **fields,
    }
    config = MoEConfig(num_experts=num_experts, router=router or SwitchRouter(), **settings)  # type: ignore[arg-type]
    layer = build_layer(
        config,
        d_model=d_model,
        feed_forward=feed_forward or FeedForwardConfig(d_ff),
        group_tokens=group_tokens,
        vocab_size=VOCABULARY,
    )
    generator = torch.Generator().manual_seed(seed)
    layer.init_weights(generator)
    for weight in layer.router.parameters():
        torch.nn.init.normal_(weight, std=d_model**-0.5, generator=generator)
    for weight in layer.experts.parameters():
        torch.nn.init.normal_(weight, std=d_model**-0.5, generator=generator)
    return layer


def hidden(
    batch: int, length: int, d_model: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Unit normal hidden states."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, d_model, generator=generator).to(dtype)


def full_mask(batch: int, length: int) -> Tensor:
    """No padding."""
    return torch.ones(batch, length, dtype=torch.bool)


def ragged_context(batch: int, length: int, padding: int = 3) -> RoutingContext:
    """Right padding that grows by ``padding`` a row, with arbitrary keys."""
    lengths = torch.tensor([max(length - padding * row, 0) for row in range(batch)])
    mask = torch.arange(length) < lengths.unsqueeze(1)
    return told(RoutingContext.build(mask, keys=torch.arange(batch) * 7919 + 13))


def told(context: RoutingContext, first: int = 0) -> RoutingContext:
    """The context with ids and labels, for routers that read them; its rows count from ``first``.

    Ids depend on row and position among real tokens, labels alternate.
    """
    row = torch.arange(context.mask.shape[0]).unsqueeze(1) + first
    ids, before = ((row * 11 + (context.position + shift) * 7) % VOCABULARY for shift in (0, -1))
    return replace(
        context,
        token_ids=torch.where(context.mask, ids, 0),
        previous_ids=torch.where(context.mask & (context.position > 0), before, -1),
        labels=row.squeeze(1) % 2,
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest entry of ``expected``."""
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    if scale == 0.0:
        return float(found.abs().max()) if found.numel() else 0.0
    return float((found.double() - expected.double()).abs().max()) / scale
