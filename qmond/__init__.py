"""qmond watches every qemu-user process of a host, and records what it does."""

__version__ = "0.1.0"
