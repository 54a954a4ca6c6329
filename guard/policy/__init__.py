"""What tool owners write, and what it means for one call."""
