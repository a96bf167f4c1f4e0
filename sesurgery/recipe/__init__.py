"""The language of recipes: YAML becomes checked rules. Imports no torch."""
