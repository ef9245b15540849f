"""Churn, faults and adversaries on a virtual clock, with real nodes."""
