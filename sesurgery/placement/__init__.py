"""Where: phrases become sites, and a site gets a route by which a layer reaches it."""
