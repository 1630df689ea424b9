"""One file a subcommand of ``monai-iln``: its description, its options, and what it runs.

Each file has ``add_options(parser)``, which leaves in ``run`` what is to be called with the parsed options. It imports
at its top only what the options need: whoever asks for help does not wait for torch.
"""
