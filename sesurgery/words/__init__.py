"""What every wing says alike: text, paths of modules, names in registries; and a user's own files, imported."""
