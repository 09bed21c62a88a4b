"""Small experiments on routing; see README.md."""
