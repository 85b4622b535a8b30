"""What was found: one result a file, all of one form."""
