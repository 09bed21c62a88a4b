"""Tasks made from packages: closed-book facts, and small tasks of reasoning, as JSON lines.

A builder is a pure function from the packages' files and a seed to questions, one file a task.
"""
