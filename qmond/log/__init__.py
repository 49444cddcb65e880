"""The log's files: writing, rotating, keeping, compressing and reading them."""
