"""Channels to people: they tell what waits and may deny it; nothing here can approve."""
