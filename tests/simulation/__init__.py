"""The real engine on the real stores, in a world where time, chance, the network and every death are decided by us."""
