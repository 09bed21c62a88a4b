"""Larger corpora from package managers: fetched, checked, cleaned, and kept with a manifest."""
