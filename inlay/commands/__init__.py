"""The subcommands of ``inlay``, one file each; short functions over the library."""
