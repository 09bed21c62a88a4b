"""A sparse model against dense ones: runs, speed-ups, tables and charts. Only worker needs torch.

config.compare and config.arms say what is compared; runner trains it, a process a run; track
reads what the runs recorded; speed and analysis turn that into figures; tables and charts show
them.
"""
