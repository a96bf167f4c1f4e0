"""Placements beside each other: what each candidate costs, and what it is worth when it is trained."""
