"""Bad data: the reasons to doubt a label, how each is found, what is done about it, and the report."""
