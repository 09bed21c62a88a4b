"""Measurements of this machine: Turnout beside the dense twin and other libraries, in turn."""
