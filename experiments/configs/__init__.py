"""Config files for `--config`: an example of one."""
