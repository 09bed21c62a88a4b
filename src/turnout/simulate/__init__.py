"""One rank of thousands, in one process: the real training step, with tensors that have no values.

The model, its layout and the step are those of training; the group is fake, tensors have shapes
alone, and a load model says how many rows come to whose experts.
"""
