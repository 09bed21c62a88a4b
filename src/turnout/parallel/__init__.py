"""Several ranks: how weights and rows are laid over them, and what travels between them."""
