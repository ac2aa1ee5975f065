"""Configs as words of a command line."""


def to_words(options):
    """KEY VALUE KEY VALUE ... of a dict."""
    return [word for pair in options.items() for word in pair]
