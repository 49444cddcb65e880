"""qmond watches every qemu-user process of a host and tells what it did."""

__version__ = "0.1.0"
