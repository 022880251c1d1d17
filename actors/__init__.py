"""One agent: what authors subclass, the turn loop and the host."""
