"""The event log: writing and rotation (writer.py), retention, compression, and reading."""
