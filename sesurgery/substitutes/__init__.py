"""What takes the place of a layer, a block or a stage."""
