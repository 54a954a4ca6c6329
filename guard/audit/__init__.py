"""What happened, why, and proof that nobody changed it."""
