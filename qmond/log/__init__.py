"""The log's files: written and rotated by writer.py, kept, compressed and read by the others."""
