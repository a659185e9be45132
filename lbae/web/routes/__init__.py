"""The routes of the application, and the document that describes them."""
