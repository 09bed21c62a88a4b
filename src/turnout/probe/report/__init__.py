"""The report of a run: one HTML file that needs no network, and the same charts as PNG."""

from turnout.probe.report.writing import compare, write, write_pictures

__all__ = ["compare", "write", "write_pictures"]
