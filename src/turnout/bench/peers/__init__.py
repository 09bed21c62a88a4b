"""Other libraries that suites are timed against, a file each; imported where they are asked for."""
