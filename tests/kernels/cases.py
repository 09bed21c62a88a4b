"""Whether kernels can be built on this machine, and the products that can be tested on it."""

import shutil

from turnout.kernels.grouped import GROUPED
from turnout.moe.product_backends import BACKENDS

BUILDS = not GROUPED.missing and any(map(shutil.which, ("g++", "clang++")))
PRODUCTS = sorted(name for name in BACKENDS if BUILDS or name != "native")
