"""The state every process of one deployment shares."""
