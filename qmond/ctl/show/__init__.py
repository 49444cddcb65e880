"""Output for people: text on a terminal, and the screen of `qmonctl top`."""
