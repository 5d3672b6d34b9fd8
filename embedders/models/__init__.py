"""What a model is: its files, its family's conventions, its adapters. Loads no weights."""
