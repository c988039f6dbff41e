"""How fast Goalwright is: workloads, a stand of real processes, a meter, and rivals on the same graphs."""
