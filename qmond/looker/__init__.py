"""The process that looks at other processes and their files, so that the daemon need not wait."""
