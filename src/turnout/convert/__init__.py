"""Hugging Face checkpoints in and out, every tensor accounted for."""
