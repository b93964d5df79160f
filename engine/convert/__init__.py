"""Other tools' configurations: read into a RunConfig, and written from one."""
