"""Behavioural signals: each agent's normal, and what is not."""
