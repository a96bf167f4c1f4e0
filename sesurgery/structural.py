"""The edits ``replace``, ``remove`` and ``rewire``."""
