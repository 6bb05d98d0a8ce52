"""What a server keeps: jobs in a database, images in files, and what becomes of both."""
