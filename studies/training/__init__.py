"""How a training study trains: settings, the loop, angles."""
