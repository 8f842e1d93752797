"""The public calls of a VM, in groups: what is done to its disks, in its guest, while it runs, to go back."""
