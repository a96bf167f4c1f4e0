"""An operated model as plain Python that needs no sesurgery."""
