"""The harness's own command line, which knows ``--model turnout --model_args path=RUN`` here."""

import sys

from lm_eval.__main__ import cli_evaluate

from turnout.config.errors import UserError
from turnout.integrations.lm_eval import NAME

if __name__ == "__main__":
    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {NAME}: {error}", file=sys.stderr)
        sys.exit(2)
