"""Authenticated streams between two nodes."""
