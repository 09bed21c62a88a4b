"""The model card beside a checkpoint's weights: what it is, how it was made, how to use it."""

from typing import Final

from turnout.config import io
from turnout.config.model import ModelConfig
from turnout.config.objective import CausalConfig, ObjectiveConfig, PrefixConfig
from turnout.config.train import RunConfig
from turnout.data.summary import Summary
from turnout.train.control import Best
from turnout.train.machine import package_version
from turnout.train.state import TrainState

CARD: Final = "README.md"  # the name that model hubs show

USE: Final = """## Use

RUN is the folder that holds `checkpoints/`; this step is taken by the path of its folder.

```sh
turnout generate RUN --prompt "..."
turnout eval RUN
```

```python
from turnout import load_run

config, model = load_run("RUN")
```

## What to expect of it

Text like the text it was trained on, true or not, some of it word for word. It was not
instructed, filtered or tested for anything else. The weights stand under whatever the licence of
that text asks.
"""

FILES: Final = """## Files

`index.json` names every tensor, its place and the SHA-256 of each file, and holds the whole
configuration; weights and optimiser state are in the `.safetensors` files, under `model.` and
`optimizer.`. Nothing is pickled.
"""


def model_card(state: TrainState, config: RunConfig, summary: Summary) -> str:
    """Markdown with the front matter that model hubs read.

    Nothing in it depends on the clock, so that a resumed run writes what an undisturbed one would
    have written. Of the text's licence nothing is known, so none is claimed.
    """
    lines = [
        *_front_matter(config.model, config.objective),
        f"# {config.preset}, step {state.step} of {config.train.steps}",
        "",
        f"{_describe(config.model)} Trained by Turnout {package_version('turnout')}; the weights "
        f"are those after {state.tokens:,} tokens.",
        "",
        *_facts(config, summary, state.control.best),
        "",
        USE,
        "## Configuration",
        "",
        "```toml",
        io.dump_toml(config).rstrip(),
        "```",
        "",
        FILES,
    ]
    return "\n".join(lines)


def _facts(config: RunConfig, summary: Summary, best: Best | None) -> list[str]:
    model = config.model
    rows = {
        "Parameters": f"{model.num_params():,}",
        "Parameters that act on a token": f"{model.num_active_params():,}",
        "Objective": config.objective.kind,
        "Text": summary.origin,
        "Its size": f"{summary.documents:,} documents, {summary.bytes:,} bytes",
        "Its SHA-256": f"`{summary.sha256}`",
        "Held out": f"{summary.validation_documents:,} documents, "
        f"{summary.validation_bytes:,} bytes",
        "Tokenizer": f"{summary.tokenizer}, {model.vocab_size:,} entries",
        "Held-out loss": _held_out(best),
    }
    cells = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    return ["| | |", "|---|---|", *cells]


def _front_matter(model: ModelConfig, objective: ObjectiveConfig) -> list[str]:
    continues = objective.kind in (CausalConfig.kind, PrefixConfig.kind)
    task = "text-generation" if continues else "text2text-generation"
    sparse = ["- mixture-of-experts"] if model.moe is not None else []
    return [
        "---",
        "library_name: turnout",
        f"pipeline_tag: {task}",
        "tags:",
        "- turnout",
        *sparse,
        "---",
        "",
    ]


def _describe(model: ModelConfig) -> str:
    kind = model.kind.replace("_", "-")
    if model.moe is None:
        return f"A dense {kind} Transformer of width {model.d_model}."
    router = model.moe.router
    return (
        f"A sparse {kind} Transformer of width {model.d_model}, with {model.moe.num_experts} "
        f"experts in each sparse layer, of which a token visits {router.active} "
        f"(router `{router.kind}`)."
    )


def _held_out(best: Best | None) -> str:
    if best is None:
        return "not evaluated yet"
    return f"{best.loss:.4f} nats a target at step {best.step}, the lowest so far"
