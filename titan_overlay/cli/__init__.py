"""Faces: argument parsing and printing, no logic that a test would want."""
