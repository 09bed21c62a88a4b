"""Text and tokens on disk, made once and mapped into memory. ``corpus.open_corpus`` is the door."""
