"""One file per study: parses, calls the library, writes its results into a run folder."""
