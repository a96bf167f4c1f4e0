"""Does an operated model still do what its original does? Both are run on the same inputs and compared."""
