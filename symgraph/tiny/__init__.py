"""Any model of `transformers` at tiny sizes, by what the names of its settings say that they count."""
