"""The command line: one lazy click group, and one module per verb that is imported when the verb is used."""
