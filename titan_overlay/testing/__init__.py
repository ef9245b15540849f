"""Virtual time, wires and disks, for tests that are the same every time."""
