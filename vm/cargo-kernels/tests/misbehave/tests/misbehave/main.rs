//! Tests that do everything that tests should not: `vm/cargo-kernels/tests/faults` has the harness run them in a guest and
//! looks at what it says of them.
//!
//! Every one is ignored by default, and refuses to do anything outside of the harness's guest: run by accident as
//! root on a real machine, they fail and nothing else happens.

#![allow(clippy::unwrap_used)]

mod contained;
mod failing;
mod fatal;
mod guest;

/// Defines tests. None of them can forget to be ignored, or to ask where it is.
macro_rules! misdeeds {
    ($($(#[$doc:meta])* fn $name:ident() $body:block)*) => {
        $(
            $(#[$doc])*
            #[test]
            #[ignore = "does harm: `cargo xtask test` has it done in a guest"]
            fn $name() {
                crate::guest::require();
                $body
            }
        )*
    };
}
use misdeeds;
