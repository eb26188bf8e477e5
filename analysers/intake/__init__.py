"""Pictures made elsewhere: what their names and metadata tell, and which control each has."""
