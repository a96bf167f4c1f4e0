"""Plans, inspections and recipes as text and pictures for people."""
