"""One public layout each: files in, stacks of labelled slices out. :mod:`.layouts` says how to add one."""
