"""Equal groups of experts, of which a token may use the best (DeepSeek-V2, 2405.04434, 2.2.2)."""

from turnout.config.errors import require


def check_expert_groups(groups: int, kept: int) -> None:
    """Raises ConfigError unless a token can keep ``kept`` of ``groups``."""
    require(groups >= 1, "router.expert_groups", groups, "at least 1")
    require(
        1 <= kept <= groups,
        "router.groups_kept",
        kept,
        f"from 1 to router.expert_groups, {groups}",
    )


def check_reach(k: int, groups: int, kept: int, num_experts: int) -> None:
    """Raises ConfigError unless the groups are equal and those kept hold ``k`` experts."""
    require(
        num_experts % groups == 0,
        "router.expert_groups",
        groups,
        f"a divisor of the {num_experts} experts",
    )
    reachable = kept * (num_experts // groups)
    require(
        k <= reachable,
        "router.k",
        k,
        f"at most {reachable}, the experts in router.groups_kept = {kept} of {groups} expert "
        "groups",
        "keep more groups",
    )
