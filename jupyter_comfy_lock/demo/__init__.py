"""`jupyter comfy-lock demo`: everything on one machine, with nothing to set up."""
