"""The looker: a process that reads other processes and their files, so that the core need not."""
