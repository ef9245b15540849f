"""Lua: scripts, functions, and what they find."""
