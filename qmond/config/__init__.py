"""The configuration: its keys and defaults (keys.py), and parsers of values (values.py)."""
