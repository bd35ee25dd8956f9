//! The programs on the host that the harness needs: finding them, and saying how to get them.
