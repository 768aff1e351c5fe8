"""The sections of ``scripts/bench.py``, one a file."""
