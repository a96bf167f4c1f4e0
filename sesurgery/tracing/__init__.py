"""A torch.fx graph of every host's forward, and what a plan remembers of it."""
