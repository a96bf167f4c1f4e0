"""An operated model as a folder: written, read with suspicion, loaded, reverted; no code from it is run."""
