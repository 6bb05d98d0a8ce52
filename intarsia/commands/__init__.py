"""The subcommands of ``intarsia``, one file each; short functions over the library."""
