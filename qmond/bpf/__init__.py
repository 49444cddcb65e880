"""The kernel side, and what the daemon needs to speak with it."""
