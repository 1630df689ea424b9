"""What pytest is not to import here: programs that need the environment of MONAI Label, or a browser."""

collect_ignore = ["dicomweb_round.py", "ohif.py"]
