"""DAGs: tasks that need one another, run by whatever nodes offer workers."""
