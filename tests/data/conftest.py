from hypothesis import settings

# The machine may be busy: no test here is about its own speed, and each must fail again.
settings.register_profile("data", deadline=None, derandomize=True)
settings.load_profile("data")
