"""The equations: activities, learning, feedback weights, plasticity, losses."""
