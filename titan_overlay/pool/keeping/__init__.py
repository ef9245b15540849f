"""Keeping: taking replicas in, keeping enough copies alive, and letting go of them."""
