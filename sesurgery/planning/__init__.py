"""From a recipe and a model to a plan that was tried out on a weightless copy."""
