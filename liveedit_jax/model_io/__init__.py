"""Model folders: opening, converting, importing and exporting models."""
