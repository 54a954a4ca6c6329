"""From a demand to a single-use grant."""
