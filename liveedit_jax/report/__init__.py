"""Pages, figures and tables of finished runs."""
