"""The slow twin of expert choice: plain Python, an expert and a token at a time."""

from torch import Tensor

from turnout.moe import Assignment, RoutingContext


def taken_by_loop(
    scores: Tensor, context: RoutingContext, slots: int
) -> list[tuple[int, int, int]]:
    """(token, expert, choice) of every live entry, in order; ``scores`` [T, E] choose.

    Each expert walks the live tokens of a group from its best on and takes the first ``slots``;
    a token then ranks the experts that took it. Ties go to the lower token and expert.
    """
    table, group = scores.tolist(), context.group.flatten().tolist()
    live = context.mask.flatten().tolist()
    experts = range(scores.shape[1])
    takers: dict[int, list[int]] = {}
    for number in range(context.num_groups):
        members = [t for t in range(len(table)) if live[t] and group[t] == number]
        for expert in experts:
            for token in sorted(members, key=lambda t: (-table[t][expert], t))[:slots]:
                takers.setdefault(token, []).append(expert)
    entries = []
    for token, own in takers.items():
        ranked = sorted(own, key=lambda e: (-table[token][e], e))
        entries += [(token, expert, choice) for choice, expert in enumerate(ranked)]
    return sorted(entries)


def entries_of(assignment: Assignment) -> list[tuple[int, int, int]]:
    """The same of an assignment."""
    columns = (assignment.token, assignment.expert, assignment.choice, assignment.live)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return sorted((token, expert, choice) for token, expert, choice, live in rows if live)
