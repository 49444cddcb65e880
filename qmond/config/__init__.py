"""The configuration: its keys with their defaults, and what a value may be."""
