"""Operated models in other libraries: thin files, each imported only when it is asked for."""
