"""What every router declares, against its paper; what is measured, against what it declares."""

import pytest

from turnout.conformance import RouterLayer, Setting
from turnout.conformance.examples import EXAMPLES

# router -> couples in training, in evaluation, causal without and with a capacity in token order,
# batch-invariant. From the papers: a token of token choice decides by itself; reward, noise and
# dropped choices change that in nothing.
OWN = ("none", "none", True, True, True)
DECLARED = {
    "switch": OWN,
    "switch, input jitter": OWN,
    "switch, input dropout": OWN,
    "switch, sampled": OWN,
    "top_k": OWN,
    "top_k, raw, k = 4": OWN,
    "top_k, softmax of selected": OWN,
    "top_k, expert groups": OWN,
    "noisy_top_k": OWN,
    "top2": OWN,
    "no_token_left_behind": OWN,
    "reinforce": OWN,
    "sigmoid_top_k": OWN,
    "sigmoid_top_k, expert groups": OWN,
    "prototypes": OWN,
    "top_p": OWN,
    "null_experts": OWN,
    "dense_to_sparse": OWN,
    "dselect_k": OWN,
    "hash": OWN,
    "hash, bigram": OWN,
    "label": OWN,
    "task": OWN,
    "sentence": ("group", "group", False, False, True),
    "multi_gate": OWN,
    "thor": OWN,
    "forced, uniform": OWN,
    "forced, zipf": OWN,
    "hierarchical": OWN,
    "expert_choice": ("group", "group", False, False, True),
    "expert_choice, capped": ("group", "group", False, False, True),
    "base": ("group", "none", False, False, True),
    "sinkhorn": ("group", "none", False, False, True),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_declarations(name):
    subject = RouterLayer(EXAMPLES[name])
    router = subject.layer(Setting()).router
    tight = Setting(capacity=1.0, evaluation=1.0)
    found = (
        router.couples,
        router.couples_in_evaluation,
        subject.causal(Setting()),
        subject.causal(tight),
        subject.batch_invariant(tight),
    )
    assert found == DECLARED[name]


def test_the_table_has_every_form():
    assert DECLARED.keys() == EXAMPLES.keys()
