"""Bad data: what is looked for, what is done about it, and the report on it."""
