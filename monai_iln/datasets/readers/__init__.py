"""One public layout each: files in, stacks of labelled slices out."""
