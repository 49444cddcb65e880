"""The configuration: keys and defaults (keys.py), and the checks of their values (values.py)."""
