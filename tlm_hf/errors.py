"""The one exception for bad input: commands turn it into one sentence on stderr and exit code 2."""


class UserError(ValueError):
    """Bad input from the user: one sentence that names the culprit and the remedy.

    Library code raises it before any long work starts; the commands print it as ``error: ...`` and exit with code 2.
    """
