"""Operations on checkpoints: a dense model made sparse, experts pruned, merged, split, and back.

Each is a table of rules as a conversion is, and each writes a receipt.
"""
