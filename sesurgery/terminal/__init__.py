"""How a command runs in a terminal: help, completion, exit codes."""
