"""Solutions in closed form, without time stepping."""
