"""One forward of a weightless copy, noted: calls, values, channel axes, costs."""
