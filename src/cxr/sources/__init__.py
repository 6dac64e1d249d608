"""Files on disk become records: a reader per collection, the label ontology, the phantom."""
