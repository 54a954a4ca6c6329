"""The console and API listener, where agents' keys never work."""
