"""What pyproject.toml cannot say: that a part of qmond is in C."""

from setuptools import setup

setup(cffi_modules=["qmond/lines/build.py:ffibuilder"])
