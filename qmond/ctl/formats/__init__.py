"""Formats for other programs: traces (Perfetto, Chrome), CSV, and tables for SQL."""
