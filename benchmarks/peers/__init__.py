"""ardyn beside other libraries that solve the same equation, in an environment of their own."""
