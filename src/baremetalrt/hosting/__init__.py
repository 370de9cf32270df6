"""A machine that shares: neighbours, hostable models, routes over peers, plans."""
