"""The version. The package metadata takes it from here: a node need not read its own metadata to know it."""

VERSION = "0.1.0.dev0"
