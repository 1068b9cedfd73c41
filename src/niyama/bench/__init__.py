"""Measurements: runs against servers and in virtual time, set side by side, and their pictures."""
