"""Compiles every small model whole; run as a program, without the shape checks of the tests."""

import torch

from tests.models.cases import CASES, batch_for
from turnout.models import build


def main() -> None:
    torch.set_num_threads(1)
    torch._dynamo.config.error_on_recompile = True
    for name, config in CASES.items():
        torch.compiler.reset()
        model = build(config)
        model.init_weights(0)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        for lengths in ([16, 9], [3, 16]):
            batch = batch_for(config, lengths, [12, 16])
            got, expected = compiled(batch), model(batch)
            torch.testing.assert_close(got.hidden, expected.hidden)
            for one, other in zip(got.layers, expected.layers, strict=True):
                assert torch.equal(one.kept, other.kept)
        print(name)


if __name__ == "__main__":
    main()
