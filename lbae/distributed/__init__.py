"""All code that uses Ray: one folder per stage, and folders that stages share. Nothing else imports Ray."""
