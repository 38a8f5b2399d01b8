"""Commands: one file a command. Its fields are the flags and the keywords, `run` does all and gives what to print."""
