"""One module per way of proving; they do not know each other."""
