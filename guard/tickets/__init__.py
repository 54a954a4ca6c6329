"""Change systems: whether the ticket that an intent names is approved, and its window open."""
