"""Agents' own configuration files: found, wrapped so that the guard stands before each tool server, and restored."""
