"""Training in several conditions: settings, the loop over conditions and epochs, angles."""
