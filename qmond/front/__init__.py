"""The front: the unprivileged process that serves clients and metrics."""
