"""Names that people can remember, and where the models of those names are to be had."""
