"""The metrics of a job: their names, who counts them, and how Ray exports them."""
