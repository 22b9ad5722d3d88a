"""The equations: activities, weight gradients, feedback weights, plasticity, losses."""
