"""What fine-tuning did: whether it overfitted, and how far the routing went."""
