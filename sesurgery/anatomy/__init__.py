"""What a surveyed model is made of: merges with their branches, existing attention, blocks and stages."""
