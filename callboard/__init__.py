"""The front door: settings, embedded services, the CLI and the names that authors import."""
