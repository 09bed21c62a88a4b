"""Tasks as small declarative files, and how well a model does them."""
