"""Three published claims about routing, at the size of the demo.

    python -m experiments.routing_claims runs/claims > docs/results/routing-claims.md

1. Without importance and load losses noisy top-k collapses, and its load's coefficient of variation
   is at least ten times that with them (Shazeer et al. 2017, 1701.06538, Table 6: 3.01 and 0.05).
2. Loss-free balancing keeps the largest load within 0.3 of the mean without any auxiliary loss
   (DeepSeek-V3, 2412.19437).
3. A router trained by reward does better than one that draws at random (Clark et al. 2022,
   2202.01169).

Whatever comes out is printed.
"""

import sys
from pathlib import Path

from experiments.cells import Traffic, by_arm, cells, machine, markdown, run, spread

PRESET, SEEDS = "switch_demo", (1, 2, 3)
COMMON = (
    *("--train.steps", "250", "--train.eval-every", "250", "--train.save-every", "250"),
    *("--model.moe.train-capacity-factor", "none"),
    *("--losses.balance", "0", "--losses.router-z", "0"),
)
NOISY = ("--router", "noisy_top_k", "--model.moe.router.k", "2", "--model.moe.num-experts", "16")
SIGMOID = ("--router", "sigmoid_top_k", "--model.moe.router.k", "2")
ARMS = {
    "noisy top-2 of 16, no losses": NOISY,
    "noisy top-2 of 16, importance 0.1 and load 0.1": (
        *NOISY,
        *("--losses.importance", "0.1", "--losses.load", "0.1"),
    ),
    "sigmoid top-2 of 8, bias rate 0.01": (*SIGMOID, "--model.moe.router.bias-rate", "0.01"),
    "sigmoid top-2 of 8, no bias": (*SIGMOID, "--model.moe.router.bias-rate", "0"),
    "reinforce, balance 0.01": ("--router", "reinforce", "--losses.balance", "0.01"),
    "random (thor, one pass)": ("--router", "thor", "--model.moe.router.consistency", "0"),
}


def main(folder: Path, jobs: int) -> str:
    """The page, after running what is missing."""
    table = cells(ARMS, SEEDS, COMMON)
    found = by_arm(run(table, PRESET, folder, jobs))
    done = sum(map(len, found.values()))
    lines = [
        "# Three claims about routing, at the size of the demo",
        "",
        f"Command: `python -m experiments.routing_claims FOLDER {jobs}`; {done} of {len(table)} "
        f"cells done. {machine()}.",
        "",
        f"`{PRESET}` with {' '.join(COMMON)}; seeds {', '.join(map(str, SEEDS))}. Mean over seeds, "
        "least and largest in brackets. Loads are added up over the last 50 training steps.",
        "",
        markdown(found),
        "",
    ]
    names = list(ARMS)
    if all(name in found for name in names):
        without, with_, bias, no_bias, reward, chance = (found[name] for name in names)
        ratios = [
            a.mean(variation) / b.mean(variation) for a, b in zip(without, with_, strict=True)
        ]
        costs = [a.loss - b.loss for a, b in zip(with_, without, strict=True)]
        gaps = [a.loss - b.loss for a, b in zip(chance, reward, strict=True)]
        lines += [
            f"1. Load CV without the losses over that with them: {spread(ratios, '.1f')}; claimed "
            f"at least 10. Held-out loss with them less without: {spread(costs, '.4f')} nats; the "
            "paper's perplexity falls from 39.8 to 35.6.",
            f"2. Max violation with the bias: {spread([r.mean(violation) for r in bias])}; "
            f"without: {spread([r.mean(violation) for r in no_bias])}; claimed below 0.3.",
            f"3. Loss of random routing less that of reward, seed by seed: {spread(gaps, '.4f')} "
            "nats; claimed above 0.",
        ]
    return "\n".join(lines)


def variation(traffic: Traffic) -> float:
    return traffic.variation


def violation(traffic: Traffic) -> float:
    return traffic.violation


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2))
