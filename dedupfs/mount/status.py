"""Attributes that a mount answers on its root; nothing here needs FUSE, so that the command line can ask without it.

They are not listed, so that no copying tool takes them along.
"""

VOLUME_XATTR = b"user.dedupfs.volume"
"""The volume's directory."""
PID_XATTR = b"user.dedupfs.pid"
"""The process that serves the mount."""
WAITING_XATTR = b"user.dedupfs.waiting"
"""How many files wait to be settled."""
STATUS_XATTR = b"user.dedupfs.status"
"""Numbers as JSON: those of the volume as of its last finished operation, what waits, and what was asked so far."""
SETTLE_XATTR = b"user.dedupfs.settle"
"""Ask for it to have everything settled and committed: the answer comes when that is done or has failed. The kernel
locks a directory while an attribute of it is set, and not while one is asked for."""
RESTORE_XATTR = b"user.dedupfs.restore"
"""Set it on a file to have the bytes back that were written."""
SPLIT_XATTR = b"user.dedupfs.split"
"""Set it on a file to have it kept apart from the picture that it rests on."""
OF_MOUNT = (VOLUME_XATTR, PID_XATTR, WAITING_XATTR, STATUS_XATTR, SETTLE_XATTR)
