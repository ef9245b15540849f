"""Titan Overlay: a pool of named objects on machines that nobody controls."""
