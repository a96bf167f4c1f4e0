"""What every wing says alike: shortened text, first lines of errors, paths of modules, names in registries."""
