"""Files, folders and hub ids into rows with their places."""
