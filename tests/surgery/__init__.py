"""Tests of ``turnout.surgery``."""
