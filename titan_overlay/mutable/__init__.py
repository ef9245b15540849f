"""Strict consistency: groups of replicas that agree on one order of messages."""
