"""The core: the process that moves records to the log, and all that keeps it running."""
