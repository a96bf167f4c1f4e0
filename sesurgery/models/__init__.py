"""A name becomes a model: libraries, a user's own factory, checkpoints, example inputs."""
