"""What the gates of attention layers do, on data."""
