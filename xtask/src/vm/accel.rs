//! Whether this host can virtualize: found out by trying.
