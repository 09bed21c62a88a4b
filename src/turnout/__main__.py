"""``python -m turnout``."""

import sys

from turnout.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
