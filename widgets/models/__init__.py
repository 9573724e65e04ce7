"""What the widgets hold and do, without any widget: state as traits, commands as methods, one file each."""
