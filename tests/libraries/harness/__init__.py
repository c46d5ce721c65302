"""What `../run` is made of. Nothing here knows a library, except for how it is installed and started."""
