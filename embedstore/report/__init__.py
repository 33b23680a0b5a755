"""Reading a table of results: on the terminal, later as a page."""
