"""Settings every test runs under."""

from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci")

# tests/test_compiled.py runs these in a process of its own; naming the folder collects them.
collect_ignore = ["compiled"]
