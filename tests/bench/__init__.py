"""Measurements: their arithmetic and their checks; no test asserts a time."""
