"""The configuration: keys and defaults (keys.py), checks of values (values.py), redaction rules."""
