"""Who is who and what is what: keys, ids, names, signed statements."""
