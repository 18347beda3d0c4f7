"""Nothing lost: what fruits does when processes die, stores fail, disks fill and files rot. Run as ``python -m faults``."""
