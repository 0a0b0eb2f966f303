"""Parts that the training commands share: arguments, recipes, figures on dev."""
