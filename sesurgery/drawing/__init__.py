"""Pictures: a block before and after as a graph, costs by stage as bars."""
