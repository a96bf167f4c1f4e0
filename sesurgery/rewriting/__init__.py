"""New code for a host."""
