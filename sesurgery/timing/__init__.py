"""How long a model takes before and after an operation."""
