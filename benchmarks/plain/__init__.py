"""A deployment of plain processes, without Ray, whose hosts and servers can be killed."""
