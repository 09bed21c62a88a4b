"""Kernels in C++ for what PyTorch leaves undone, built once a user; everything works without."""
