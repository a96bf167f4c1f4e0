"""Performing and undoing: the only wing that changes a model."""
