"""Programs that parse arguments, call the library and write results into a folder."""
